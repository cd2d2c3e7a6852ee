"""The page of the demo: gradio, served on this machine alone, without anything from elsewhere."""
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import tempfile
import time

from speechmerge.data.audio import RATE, read_audio
from speechmerge.data.batching import FeatureCache
from speechmerge.demo import rendering
from speechmerge.demo.listener import Listener
from speechmerge.demo.sound import take
from speechmerge.demo.style import CSS
from speechmerge.demo.subjects import Request
from speechmerge.errors import SpeechMergeError, UsageError

log = logging.getLogger(__name__)
INSTALL = "run: pip install -e '.[demo]' in the folder of the checkout"
PORT = 7860
UPLOAD = "100mb"  # of one file
POLICY = ("default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
          "frame-ancestors 'self'")


def import_gradio():
    """gradio, told to send nothing; its files go into GRADIO_TEMP_DIR, which is to be set before."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
    except ImportError as error:
        raise SpeechMergeError(f"demo: gradio, which makes the page, is missing; {INSTALL}") from error
    return gradio


class Page:
    """The events of the page. limit: seconds of sound that are listened to."""

    def __init__(self, listener: Listener, warm_up: float, limit: float = 60.0):
        self.listener, self.warm_up, self.limit = listener, warm_up, listener.longest(limit)

    def choose(self, key: str | None):
        """A listed example -> (first sound, second sound, language, question)."""
        if key is None:
            return None, None, None, None
        example = self.listener.example(key)
        sounds = [(RATE, (read_audio(path) * 32767).astype("int16")) for path in example.audio]
        questions = [subject.questions.get(key) for subject in self.listener.subjects.values()]
        return sounds[0], sounds[1] if len(sounds) > 1 else None, example.language, next(filter(None, questions), None)

    def listen(self, key, sound, second, language, question, subjects, systems):
        """Yields (routing, answers) as HTML, longer with every answer. A bad sound is answered with what is wrong with it."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                yield from self._listen(key, sound, second, language, question, subjects, systems, folder)
        except SpeechMergeError as error:
            yield "", rendering.box("problem", str(error))

    def _listen(self, key, sound, second, language, question, subjects, systems, folder):
        paths, seconds, changes = self._sounds(key, sound, second, folder)
        request = Request(paths, language or None, (question or "").strip() or None, key)
        cache, answers = FeatureCache(), []
        heard = self.listener.hear(request, cache)
        yield rendering.routing(heard, answers, seconds), rendering.box("note", "Listening ...")
        for answer in self.listener.answers(request, subjects or None, systems or None, cache, heard):
            answers.append(answer)
            tables = rendering.tables(self.listener.subjects, answers, request)
            yield rendering.routing(heard, answers, seconds), tables + rendering.timing(answers, seconds, changes, self.warm_up)
        if not answers:
            raise SpeechMergeError("No system answers this; choose more systems or tasks.")

    def _sounds(self, key, sound, second, folder) -> tuple[tuple[str, ...], float, str]:
        """(files, seconds of the first, what was changed). A listed example is taken as it is."""
        if key is not None:
            audio = self.listener.example(key).audio
            return audio, len(read_audio(audio[0])) / RATE, ""
        if sound is None:
            raise SpeechMergeError("There is no sound yet: record one, drop a file, or choose an utterance of the data.")
        taken = [take(path, folder, self.limit) for path in (sound, second) if path]
        return tuple(one.path for one in taken), taken[0].seconds, taken[0].changes


def build(gradio, page: Page, about: str):
    """The Blocks: sound, routing, answers, in this order."""
    listener = page.listener
    subjects, systems = list(listener.subjects), [system.name for system in listener.systems]
    pairs = any(subject.sounds > 1 for subject in listener.subjects.values())
    asks = any(subject.task.asks for subject in listener.subjects.values())
    with gradio.Blocks(title="SpeechMerge demo", analytics_enabled=False, fill_width=True) as blocks:
        shown = {"apply_default_css": False, "padding": False}
        heard = {"sources": ["microphone", "upload"], "type": "filepath", "buttons": ["download"]}
        gradio.HTML(f'<div class="sm-head"><h1>SpeechMerge demo</h1><p>{rendering.text(about)}</p></div>', **shown)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=330):
                gradio.Markdown("### 1. Sound")
                sound = gradio.Audio(label="Record or drop a file", **heard)
                second = gradio.Audio(label="Second sound: is it the same speaker?", visible=pairs, **heard)
                key = gradio.Dropdown(example_choices(listener), value=None, label="Or an utterance of the data", elem_id="example")
                language = gradio.Dropdown([("not known", "")] + [(code, code) for code in listener.known_languages()], value="",
                                           label="Language that is spoken",
                                           info="Not known: adapters are told their own, the others what the router hears")
                question = gradio.Textbox(label="Question about the sound", visible=asks)
                with gradio.Accordion("Tasks and systems", open=False):
                    asked = gradio.CheckboxGroup(subjects, value=subjects, label="Tasks", visible=len(subjects) > 1)
                    chosen = gradio.CheckboxGroup(systems, value=systems, label="Systems")
                button = gradio.Button("Listen", variant="primary", elem_id="listen")
            with gradio.Column(scale=7, min_width=400):
                gradio.Markdown("### 2. Routing")
                routing = gradio.HTML(rendering.box("note", "Which adapters an utterance gets is shown here."), **shown)
                gradio.Markdown("### 3. Answers")
                answers = gradio.HTML(rendering.box("note", "What every system answers is shown here."), elem_id="answers", **shown)
        key.input(page.choose, [key], [sound, second, language, question], api_visibility="private", show_progress="hidden")
        for audio in (sound, second):  # a sound of one's own is no longer the listed one
            gradio.on([audio.input, audio.upload, audio.clear, audio.start_recording], lambda: None, None, key, api_visibility="private",
                      show_progress="hidden")
        button.click(page.listen, [key, sound, second, language, question, asked, chosen], [routing, answers],
                     api_name="listen", concurrency_limit=1, show_progress="minimal")
    return blocks.queue(default_concurrency_limit=1, max_size=16)


def example_choices(listener: Listener) -> list[tuple[str, str]]:
    """[(what is shown, key)]; the text of an example stands in its answer, not here."""
    found = {}
    for subject in listener.subjects.values():
        for key, example in subject.examples.items():
            found[key] = f"{key.replace('/', ': ', 1)}" + (f" ({example.duration:.1f} s)" if example.duration else "")
    return [(name, key) for key, name in found.items()]


# The server


def no_links(gradio):
    """A client may name an address in the place of a file; gradio would fetch it. Only files that were uploaded are taken."""
    from gradio import processing_utils

    async def refuse(url, *_, **__):
        raise gradio.Error("only uploaded files are taken, no addresses", print_exception=False)

    processing_utils.async_ssrf_protected_download = refuse


class Guard:
    """Tells the browser to ask no other machine for anything, whatever a page says."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def answer(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]}
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


def bind(host: str, port: int | None) -> socket.socket:
    """port: None: 7860, or a free one where it is taken; 0: a free one."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--host {host!r}: {error}") from error
    for number in [PORT, 0] if port is None else [port]:
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address[0], number, *address[2:]))
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            problem = error
    raise UsageError(f"--host {host} --port {port}: {problem.strerror}; leave out --port for a free one")


def is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(page: Page, about: str, host: str, port: int | None, open_browser: bool, opened: socket.socket | None = None):
    """Serve until Ctrl-C or SIGTERM. What was uploaded goes with the server."""
    listening = opened or bind(host, port)
    with tempfile.TemporaryDirectory(prefix="speechmerge-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        gradio = import_gradio()
        server = make_server(gradio, page, about, listening)
        number = listening.getsockname()[1]
        url = f"http://{'127.0.0.1' if is_local(host) else host}:{number}/"
        if not is_local(host):
            log.warning("--host %s: everyone who reaches this machine can listen; there is no password", host)
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(url)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is removed then, too
        with contextlib.suppress(KeyboardInterrupt):
            server.run([listening])


def make_server(gradio, page: Page, about: str, listening: socket.socket):
    import fastapi
    import uvicorn

    no_links(gradio)
    host, number = listening.getsockname()[:2]
    blocks = build(gradio, page, about)
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), blocks, path="/", server_name=host, server_port=number, footer_links=[],
        run_history=False, show_error=False, max_file_size=UPLOAD, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, theme=gradio.themes.Default(primary_hue="blue"), css=CSS)
    blocks.has_launched = True  # else gradio takes any path on this machine for an upload
    return uvicorn.Server(uvicorn.Config(Guard(app), log_level="warning", timeout_graceful_shutdown=1, lifespan="on"))


def warmed(listener: Listener) -> float:
    """Seconds of the warm-up, on a second of noise."""
    import numpy as np

    from speechmerge.data.audio import write_wav

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "noise.wav")
        write_wav(path, np.random.default_rng(0).normal(0, 0.05, RATE).astype(np.float32))
        listener.warm_up(path)
    return time.perf_counter() - begun
