"""tools/screenshot.py PAGE OUT.png [--width 1200] [--height 900] [--selector "#generation"] [--full]

A picture of a local page or of an address in a headless Chromium, as they stand in docs/: of the window, of the first
element that a CSS selector finds, or of the whole page.
"""
import argparse
import sys
from pathlib import Path

from browser import NoBrowser, browser


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", help="a file, or an address such as http://127.0.0.1:7860")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1200, help="of the window, in CSS pixels; a phone: 390")
    parser.add_argument("--height", type=int, default=900, help="likewise")
    parser.add_argument("--selector", help="CSS selector: the picture of the first such element")
    parser.add_argument("--full", action="store_true", help="the whole page, however long")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture per CSS pixel")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds before it is taken")
    return parser.parse_args()


def address(page: str) -> str:
    if "://" in page:
        return page
    path = Path(page).resolve()
    if not path.is_file():
        raise SystemExit(f"{page}: not there; give a file or an address")
    return path.as_uri()


def take(chromium, args):
    page = chromium.new_page(viewport={"width": args.width, "height": args.height}, device_scale_factor=args.scale)
    page.goto(address(args.page))
    page.wait_for_timeout(1000 * args.wait)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not args.selector:
        return page.screenshot(path=args.out, full_page=args.full)
    page.add_style_tag(content="nav, header { position: static !important; }")  # bars that would lie over long elements
    found = page.locator(args.selector).first
    if not found.count():
        raise SystemExit(f"{args.page}: nothing matches --selector {args.selector!r}")
    return found.screenshot(path=args.out)


def main():
    args = arguments()
    try:
        with browser() as chromium:
            take(chromium, args)
    except NoBrowser as error:
        sys.exit(f"screenshot.py: {error}")
    print(args.out)


if __name__ == "__main__":
    main()
