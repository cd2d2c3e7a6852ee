"""Audio LLMs against transformers' own processors, networks and generation, both families alike."""
import contextlib
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, tone
from tiny_qwen import MELS, SECONDS, extractor, tiny_omni, tiny_qwen2_audio
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.tasks import get_task
from speechmerge.tasks.base import Example

FAMILIES = {"qwen2_audio": (tiny_qwen2_audio, Qwen2AudioForConditionalGeneration),
            "qwen2_5_omni": (tiny_omni, Qwen2_5OmniThinkerForConditionalGeneration)}
LENGTHS = (0.9, 1.7, 0.47, 2.333, 5.0)  # s; the last is cut


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    return FAMILIES[family][0](tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu")


@pytest.fixture(scope="module")
def plain(family, base):
    return FAMILIES[family][1].from_pretrained(base).eval()


@pytest.fixture(scope="module")
def processor(family, model, base):
    """transformers' own; Omni's without its vision half, which would need torchvision and takes no part."""
    if family == "qwen2_audio":
        return Qwen2AudioProcessor.from_pretrained(base)
    made = object.__new__(Qwen2_5OmniProcessor)
    made.tokenizer, made.feature_extractor, made.chat_template = model.tokenizer, extractor(), model.processor.chat_template
    made.audio_token, made.image_token, made.video_token = "<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>"
    return made


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Paths and waves of LENGTHS."""
    folder, found = tmp_path_factory.mktemp("audio"), {}
    for i, seconds in enumerate(LENGTHS):
        wave = tone(200 + 90 * i, seconds, seed=i)
        soundfile.write(folder / f"{i}.wav", wave, RATE, subtype="FLOAT")
        found[str(folder / f"{i}.wav")] = wave
    return found


@pytest.fixture(scope="module")
def examples(audio):
    words = ["yes", "light on", "no", "stop it now", "play"]
    return [Example(f"u{i}", (path,), word, "en", "s", seconds, prompt=f"What is said in number {i * 7}?")
            for i, (path, word, seconds) in enumerate(zip(audio, words, LENGTHS))]


@pytest.fixture(scope="module")
def pair(audio):
    first, second = list(audio)[:2]
    return Example("pair", (first, second), "yes", "en", None, LENGTHS[0] + LENGTHS[1], prompt="The same speaker?")


@pytest.fixture(scope="module")
def text_only():
    return Example("text", (), "no", "en", None, 0.0, prompt="Transcript: turn it off. What is meant?")


ASR = get_task("asr")
ASR.max_new_tokens = 12


def items_of(model, examples):
    return [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]


def official(processor, model, example, audio):
    """What transformers' processor makes of an example."""
    conversation = model.conversation.messages(example.prompt, len(example.audio))
    text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    waves = [audio[path] for path in example.audio]
    extra = {"audio": waves, "sampling_rate": RATE} if waves else {}
    return processor(text=[text], return_tensors="pt", **extra)


def naive_answer(plain, inputs, ends, steps=12):
    """Greedy search without a cache: a whole forward pass per token."""
    ids, found = inputs["input_ids"], []
    for _ in range(steps):
        mask = torch.ones_like(ids)
        with torch.no_grad():
            logits = plain(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits[0, -1]
        found.append(int(logits.argmax()))
        if found[-1] in ends:
            break  # the last is written, too: a random network may write a placeholder, for which there is no sound
        ids = torch.cat([ids, torch.tensor([[found[-1]]])], dim=1)
    return found


def test_features_and_conversation_are_those_of_the_processor(model, processor, examples, pair, text_only, audio):
    for example in [*examples, pair, text_only]:
        item, = items_of(model, [example])
        batch, expected = model.collate([item], ASR), official(processor, model, example, audio)
        assert batch["input_ids"].tolist() == expected["input_ids"].tolist(), example.id
        if not example.audio:
            assert item.features.shape == (MELS, 0) and "input_features" not in batch
            continue
        counts = expected["feature_attention_mask"].sum(-1)
        assert batch["feature_attention_mask"].sum(-1).tolist() == counts.tolist()
        for ours, theirs, count in zip(batch["input_features"], expected["input_features"], counts.tolist()):
            assert torch.allclose(ours[:, :count], theirs[:, :count], atol=1e-5)
        assert batch["input_features"].shape[-1] <= max(counts.tolist()) + 3  # not padded to the full context


def test_logits_are_those_of_transformers(model, plain, processor, examples, pair, text_only, audio):
    for example in [*examples, pair, text_only]:
        batch = model.collate(items_of(model, [example]), ASR)
        batch = {name: value for name, value in batch.items() if name != "recordings"}
        with torch.no_grad():
            ours = model.core(**batch).logits
            theirs = plain(**official(processor, model, example, audio)).logits
        assert torch.allclose(ours, theirs, atol=2e-4), example.id


def test_very_short_audio_is_continued_with_silence(model, plain, processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300, 0.02), RATE)
    example = Example("short", (str(tmp_path / "a.wav"),), "yes", "en", None, 0.02, prompt="What?")
    batch = model.collate(items_of(model, [example]), ASR)
    assert batch["feature_attention_mask"].sum() == 10 and (batch["input_ids"] == model.conversation.audio_id).sum() == 2
    assert len(model.generate(batch, ASR)) == 1


def test_lessons_carry_loss_on_the_answer_alone(model, processor, examples, pair, text_only):
    chosen = [*examples, pair, text_only]
    batch = model.collate(items_of(model, chosen), ASR, training=True)
    for row, example in enumerate(chosen):
        told = model.conversation.messages(example.prompt, len(example.audio))
        told.append({"role": "assistant", "content": [{"type": "text", "text": example.target}]})
        whole = processor.apply_chat_template(told, tokenize=False)
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        known = labels != -100
        assert model.tokenizer.decode(labels[known]) == f"{example.target}<|im_end|>"
        first = int(known.nonzero()[0])
        seen = model.tokenizer.decode(ids[: first + 1]).replace("<|AUDIO|>", "")
        assert seen + model.tokenizer.decode(labels[known]) + "\n" == whole.replace("<|AUDIO|>", "")
        assert torch.equal(ids[first + 1 : first + known.sum()], labels[known][:-1])  # a label is the next token
        assert batch["attention_mask"][row].tolist() == [1] * int(known.nonzero()[-1] + 1) + [0] * int(
            len(ids) - known.nonzero()[-1] - 1)


def test_loss_is_that_of_transformers(model, plain, processor, examples, audio):
    example = examples[1]
    inputs, answer = official(processor, model, example, audio), torch.tensor([model.answer_ids(example.target)])
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        expected = plain(**inputs, labels=labels).loss
        batch = model.collate(items_of(model, examples[:2]), ASR, training=True)
        labels = batch.pop("labels")
        outputs = model.core(**batch)
        own = model.loss(type("", (), {"logits": outputs.logits[1:]}), labels[1:])
    assert torch.allclose(own, expected, atol=1e-4)
    count = int((labels != -100).sum())
    assert torch.allclose(model.loss(outputs, labels, count), model.loss(outputs, labels))


def test_batched_decoding_is_decoding_one_by_one(model, plain, processor, examples, pair, text_only, audio):
    chosen = [*examples, pair, text_only]
    ends = {*model.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]), model.conversation.audio_id}
    together = model.generate(model.collate(items_of(model, chosen), ASR), ASR)
    assert len(set(together)) > 2
    for example, text in zip(chosen, together):
        assert model.generate(model.collate(items_of(model, [example]), ASR), ASR) == [text]
        naive = naive_answer(plain, official(processor, model, example, audio), ends)
        expected = model.tokenizer.decode(naive, skip_special_tokens=True).strip()
        assert text.startswith(expected) if naive[-1] == model.conversation.audio_id else text == expected


def test_beam_search_in_batches(model, plain, processor, examples, pair, audio):
    from transformers import GenerationConfig

    chosen = [*examples[:3], pair]
    together = model.generate(model.collate(items_of(model, chosen), ASR), ASR, num_beams=3)
    for example, text in zip(chosen, together):
        assert model.generate(model.collate(items_of(model, [example]), ASR), ASR, num_beams=3) == [text]
    plain.generation_config = GenerationConfig()
    inputs = official(processor, model, chosen[0], audio)
    theirs = plain.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=12, eos_token_id=[model.end_id],
                            pad_token_id=model.tokenizer.pad_token_id)[0, inputs["input_ids"].shape[1] :]
    assert model.tokenizer.decode(theirs, skip_special_tokens=True).strip() == together[0]


def test_labels_score_as_each_by_itself(model, plain, processor, examples, pair, text_only, audio):
    labels = ["yes", "no", "stop", "stop it", "light on", "light off", ""]
    chosen = [examples[3], text_only, pair, examples[2]]
    batch = model.collate(items_of(model, chosen), ASR)
    scores = model.score_labels(batch, labels)
    assert scores.shape == (4, 7) and model.generate(batch, ASR) == model.generate(
        model.collate(items_of(model, chosen), ASR), ASR)
    for example, row in zip(chosen, scores):
        inputs = official(processor, model, example, audio)
        for label, score in zip(labels, row.tolist()):
            ids = torch.tensor([model.answer_ids(label)])
            extended = {**inputs, "input_ids": torch.cat([inputs["input_ids"], ids], dim=1)}
            extended["attention_mask"] = torch.ones_like(extended["input_ids"])
            with torch.no_grad():
                logs = plain(**extended).logits[0, -ids.shape[1] - 1 : -1].log_softmax(-1)
            assert logs.gather(-1, ids.T).mean().item() == pytest.approx(score, abs=2e-4), label


def test_a_tree_of_labels_in_pieces_changes_nothing(model, examples, monkeypatch):
    from speechmerge.models.qwen_audio import label_scores

    labels = [f"{a} {b}" for a in ("light", "lamp", "play") for b in ("on", "off", "now", "it")]
    whole = model.score_labels(model.collate(items_of(model, examples), ASR), labels)
    monkeypatch.setattr(label_scores, "TREE_TOKENS", 7)
    monkeypatch.setattr(label_scores, "BLOCK_BYTES", 1)
    assert torch.allclose(model.score_labels(model.collate(items_of(model, examples), ASR), labels), whole, atol=1e-5)


def test_embeddings_are_means_of_the_encoders_states(family, model, plain, processor, examples, text_only, audio):
    found = model.embed(model.collate(items_of(model, examples[:3]), ASR))
    for example, vector in zip(examples, found):
        inputs = official(processor, model, example, audio)
        heard = int((inputs["input_ids"] == model.conversation.audio_id).sum())
        with torch.no_grad():
            if family == "qwen2_audio":
                frames = inputs["feature_attention_mask"].sum(-1)
                mask = torch.zeros(1, 1, SECONDS * 50, SECONDS * 50).masked_fill(
                    torch.arange(SECONDS * 50) >= (frames - 1) // 2 + 1, -torch.inf)
                states = plain.model.audio_tower(inputs["input_features"], attention_mask=mask).last_hidden_state[0, :heard]
            else:
                states = plain.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]).last_hidden_state
        assert torch.allclose(vector, states.mean(0), atol=1e-4)
    with pytest.raises(SpeechMergeError, match="--inputs audio"):
        model.embed(model.collate(items_of(model, [text_only]), ASR))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_of_one_layer(family, model, plain, processor, examples, pair, audio, layer):
    found, lengths = model.encoder_states(model.collate(items_of(model, examples[:3]), ASR), layer)
    for example, states, length in zip(examples, found, lengths.tolist()):
        inputs = official(processor, model, example, audio)
        frames = inputs["feature_attention_mask"].sum(-1)
        assert length == (frames - 1) // 2 + 1
        with torch.no_grad(), seen_by(plain.model.audio_tower.layers[min(layer, 1)], after=layer == 2) as seen:
            plain(**inputs)
        assert torch.allclose(states[:length], seen[0].squeeze(0)[:length], atol=1e-4)
    assert len(model.core.model.audio_tower.layers) == 2
    with pytest.raises(SpeechMergeError, match="layer 3 of an encoder of 2"):
        model.encoder_states(model.collate(items_of(model, examples[:1]), ASR), 3)
    with pytest.raises(SpeechMergeError, match="one recording per example, not 2"):
        model.encoder_states(model.collate(items_of(model, [pair]), ASR), layer)


@contextlib.contextmanager
def seen_by(layer, after):
    """A list of what the layer gives, or is given."""
    seen = []
    forward = layer.forward

    def spy(hidden_states, *rest, **options):
        output = forward(hidden_states, *rest, **options)
        seen.append((output[0] if isinstance(output, tuple) else output) if after else hidden_states)
        return output

    layer.forward = spy
    try:
        yield seen
    finally:
        layer.forward = forward


def test_the_last_states_are_what_the_language_model_is_given(model, examples):
    batch = model.collate(items_of(model, examples[:3]), ASR)
    states, lengths = model.encoder_states(batch, -1)
    means = torch.stack([own[:length].mean(0) for own, length in zip(states, lengths.tolist())])
    assert torch.allclose(means, model.embed(batch), atol=1e-5)


def test_a_stretch_of_a_recording(model, examples):
    """Routers cut stretches out of the features; the placeholders follow."""
    item, = items_of(model, examples[:1])
    for start, stop in ((0, 42), (20, 62), (0, 3)):
        cut = Item(item.example, item.features[:, start:stop], 0.4)
        batch = model.collate([cut], ASR)
        states, lengths = model.encoder_states(batch, -1)
        assert int(lengths[0]) == int((batch["input_ids"] == model.conversation.audio_id).sum()) > 1


def test_what_does_not_fit_is_told(model, examples, pair, text_only):
    for example in (examples[0], pair, text_only):
        assert model.fits(example, ASR) is None
    assert "5.0 s long, the encoder holds 4 s" in model.fits(examples[4], ASR)
    long = Example("long", (), "yes " * 600, "en", None, 0.0, prompt="Say yes.")
    assert "the language model holds 512" in model.fits(long, ASR)
    with pytest.raises(SpeechMergeError, match=r"2 x <\|AUDIO\|> for 1 recordings"):
        model.conversation.prefix("What is <|AUDIO|>?", (30,))


def test_targets_are_the_language_model_unless_named(model):
    spoken, heard = model.target_modules(), model.target_modules("encoder")
    assert len(spoken) == 14 and all(name.startswith("model.language_model.layers.") for name in spoken)
    assert heard and all(name.startswith("model.audio_tower.") for name in heard)
    assert len(model.target_modules("attention")) == 8 and model.target_modules(["decoder"]) == spoken
    assert model.target_modules(["q_proj", "v_proj"]) == [n for kind in ("q_proj", "v_proj") for n in spoken if n.endswith(kind)]
    assert all("audio_tower" in name for name in model.target_modules("fc1")) and not set(heard) & set(spoken)
    with pytest.raises(UsageError, match="gate_proj"):
        model.target_modules("no_such_layer")


def test_blocks_by_the_names_of_networks_and_files(model):
    from speechmerge.blocks import block_of

    for name, place in {"model.language_model.layers.3.mlp.up_proj.weight": ("decoder", 3),
                        "language_model.model.layers.3.mlp.up_proj.weight": ("decoder", 3),
                        "thinker.model.layers.11.self_attn.q_proj.weight": ("decoder", 11),
                        "model.audio_tower.layers.2.fc1.weight": ("audio_tower", 2),
                        "audio_tower.layers.2.fc1.weight": ("audio_tower", 2),
                        "model.multi_modal_projector.linear.weight": None, "lm_head.weight": None}.items():
        assert model.block_of(name) == place and block_of(name) == place
    inside = [model.block_of(name) for name, _ in model.core.named_parameters() if ".layers." in name]
    assert set(inside) == {("decoder", 0), ("decoder", 1), ("audio_tower", 0), ("audio_tower", 1)}


def test_unfreezing_leaves_what_hears_alone(base):
    model = load_model(base, device="cpu")
    model.unfreeze()
    learning = {name for name, value in model.core.named_parameters() if value.requires_grad}
    assert learning == {name for name, _ in model.core.named_parameters() if name.startswith(("model.language_model.", "lm_head"))}


def broken(base, folder, change):
    shutil.copytree(base, folder)
    change(folder)
    return folder


def edit(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_folders_that_are_not_whole_are_told_in_one_sentence(family, base, tmp_path):
    settings = "processor_config.json" if family == "qwen2_audio" else "preprocessor_config.json"
    cases = {
        "no feature extractor": lambda folder: (folder / settings).unlink(),
        "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
        "no weights": lambda folder: (folder / "model.safetensors").unlink(),
        "auto_map": lambda folder: edit(folder, "config.json", auto_map={"AutoModel": "x.Y"}),
        "did you mean": lambda folder: edit(folder, "config.json", model_type="qwen2_audo"),
    }
    for message, change in cases.items():
        with pytest.raises(SpeechMergeError, match=message):
            load_model(broken(base, tmp_path / message.replace(" ", "_"), change), device="cpu")


def test_a_vocabulary_that_does_not_match(family, base, tmp_path):
    def shrink(folder):
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["vocab_size"] = 100
        (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(SpeechMergeError, match=r"tokenizer has \d+ tokens, the network 100"):
        load_model(broken(base, tmp_path / "small", shrink), device="cpu")
    with pytest.raises(SpeechMergeError, match=r"<\|AUDIO\|> at \d+, config.json at 3"):
        key = "audio_token_index" if "audio_token_index" in (base / "config.json").read_text() else "audio_token_id"
        load_model(broken(base, tmp_path / "moved", lambda folder: edit(folder, "config.json", **{key: 3})), device="cpu")


def test_features_for_another_network(family, base, tmp_path):
    def other(folder):
        if family == "qwen2_audio":
            file = folder / "processor_config.json"
            settings = json.loads(file.read_text())
            settings["feature_extractor"]["feature_size"] = 80
            file.write_text(json.dumps(settings))
        else:
            edit(folder, "preprocessor_config.json", feature_size=80)

    with pytest.raises(SpeechMergeError, match=f"80 mel bins, the network takes {MELS}"):
        load_model(broken(base, tmp_path / "base", other), device="cpu")


def test_lost_weights_are_no_model(base, tmp_path):
    from safetensors.torch import load_file, save_file

    def lose(folder):
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if ".layers.1.mlp." not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(SpeechMergeError, match="3 weights are missing, such as"):
        load_model(broken(base, tmp_path / "base", lose), device="cpu")


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantization_without_its_package(base, kind, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest))
    with pytest.raises(SpeechMergeError, match=f"--quantization {kind}.*pip install bitsandbytes"):
        load_model(base, device="cpu", quantization=kind)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_types_hear_the_same(base, model, examples, dtype):
    half = load_model(base, device="cpu", dtype=dtype)
    batch = half.collate(items_of(half, examples[:2]), ASR)
    assert batch["input_features"].dtype == getattr(torch, dtype)
    labels, whole = ["yes", "no", "light on"], model.collate(items_of(model, examples[:2]), ASR)
    assert torch.allclose(half.score_labels(batch, labels), model.score_labels(whole, labels), atol=0.2)
    assert len(half.generate(batch, ASR)) == 2


def test_devices_by_map_and_attention_by_name(base, model, examples):
    mapped = load_model(base, device="cpu", device_map="cpu", attention="eager")
    assert mapped.core.config._attn_implementation == "eager"
    labels = ["yes", "no"]
    ours = mapped.score_labels(mapped.collate(items_of(mapped, examples[:2]), ASR), labels)
    assert torch.allclose(ours, model.score_labels(model.collate(items_of(model, examples[:2]), ASR), labels), atol=1e-4)


@pytest.mark.slow
def test_the_families_do_not_pull_in_their_networks():
    import subprocess
    import sys

    code = ("import sys; from speechmerge.models.base import FAMILIES; FAMILIES.names(); "
            "print([name for name in sys.modules if 'modeling_qwen' in name or name == 'espnet2'])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]" and np.isfinite(SECONDS)
