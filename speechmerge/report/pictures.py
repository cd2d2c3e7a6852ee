"""Pictures as the page holds them: PNG with at most 128 colours, a third of the size; the files keep all."""
import functools
import io

COLOURS = 128  # of a chart: a few inks and the shades of its letters


@functools.lru_cache(maxsize=256)
def embedded(png: bytes) -> bytes:
    """The smaller one of the picture and its copy in COLOURS colours."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        flat.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


def size_in_page(png: bytes) -> int:
    """Bytes of the data URI."""
    return len(embedded(png)) * 4 // 3 + 32
