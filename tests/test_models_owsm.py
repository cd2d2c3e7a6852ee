"""OWSM: espnet2's own classes say what features, losses and hypotheses are; PEFT what an adapter is."""
import shutil
import sys

import pytest
import torch
from tiny import tiny_tones, tone

pytest.importorskip("espnet2", reason="ESPnet is not installed (tools/install_espnet.sh)")

import numpy as np
import soundfile
import yaml
from tiny_owsm import SECONDS, speech2text, tiny_owsm

from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.blocks import block_of
from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.models.owsm import languages, layout
from speechmerge.storage.checkpoint import Checkpoint
from speechmerge.tasks import get_task
from speechmerge.tasks.base import Example

DYNAMIC = {"device": "cpu", "audio_context": "dynamic", "audio_context_min": 0.5, "audio_context_step": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_owsm(tmp_path_factory.mktemp("owsm") / "base")


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Paths of three sounds of different lengths, the last one as long as the encoder's context."""
    folder = tmp_path_factory.mktemp("waves")
    for i, seconds in enumerate((0.7, 1.33, SECONDS)):
        soundfile.write(folder / f"{i}.wav", tone(200 + 130 * i, seconds, seed=i), 16000, subtype="FLOAT")
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu")


def examples(waves, target="yes no", language="en", **more):
    return [Example(f"u{i}", (path,), target, language, None, None, **more) for i, path in enumerate(waves)]


def batch_of(model, found, task, training=False):
    return model.collate([Item(e, model.features(e.audio), model.seconds(e)) for e in found], task, training)


def padded(path):
    wave = soundfile.read(path, dtype="float32")[0][: SECONDS * 16000]
    return np.pad(wave, (0, SECONDS * 16000 - len(wave)))


def test_states_are_those_of_espnet(model, waves):
    batch = batch_of(model, examples(waves), get_task("asr"))
    speech = torch.tensor(np.stack([padded(path) for path in waves]))
    with torch.no_grad():
        expected, _ = model.core.encode(speech, torch.full((3,), SECONDS * 16000))
    assert torch.allclose(model.encode(batch), expected, atol=1e-5)
    last, heard = model.encoder_states(batch, 2)
    with torch.no_grad():
        assert torch.allclose(model.core.encoder.after_norm(last), expected, atol=1e-5)
    assert heard.tolist() == sorted(heard.tolist()) and heard[-1] == expected.shape[1]
    first, _ = model.encoder_states(batch, 0)
    assert first.shape == last.shape and not torch.allclose(first, last)


def test_dynamic_context_is_espnet_on_shorter_padding(base, waves):
    model = load_model(base, **DYNAMIC)
    item = examples(waves)[:1]
    wave = torch.tensor(padded(waves[0])[: 16000])[None]  # 0.7 s: 1.0 s with steps of half a second
    with torch.no_grad():
        expected, _ = model.core.encode(wave, torch.tensor([16000]))
    assert torch.allclose(model.encode(batch_of(model, item, get_task("asr"))), expected, atol=1e-5)


@pytest.mark.parametrize("prompt", [None, "the lamp"])
@pytest.mark.parametrize("normalized", [False, True])
def test_loss_is_that_of_espnet(model, waves, prompt, normalized, monkeypatch):
    from espnet2.s2t.espnet_model import ESPnetS2TModel

    monkeypatch.setattr(model.core.criterion_att, "normalize_length", normalized)
    texts, task = ["yes no stop", "äöü lamp", ""], get_task("asr")
    found = [Example(e.id, e.audio, text, "it", None, None, prompt) for e, text in zip(examples(waves), texts)]
    batch = batch_of(model, found, task, training=True)
    labels = batch.pop("labels")
    tokenizer = model.symbols.pieces

    def padded_ids(rows):
        ids = [torch.tensor([model.symbols.ids.get(piece, 1) for piece in row]) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1), lengths

    told = [f"<ita><asr><notimestamps> {text}".strip() for text in texts]
    told = [tokenizer.encode(text, out_type=str)[1:] for text in told]  # as S2TPreprocessor: without the first space
    previous = [tokenizer.encode(prompt, out_type=str) if prompt else ["<na>"]] * 3
    plain = [tokenizer.encode(text, out_type=str) for text in texts]
    speech = torch.tensor(np.stack([padded(path) for path in waves]))
    with torch.no_grad():
        expected = ESPnetS2TModel.forward(model.core, speech, torch.full((3,), SECONDS * 16000), *padded_ids(told),
                                          *padded_ids(previous), *padded_ids(plain))[0]
        ours = model.loss(model.core(**batch), labels)
        halves = model.loss(model.core(**batch), labels, num_items_in_batch=2 * int(labels.ne(-100).sum()))
    factor = 1.0 if normalized else 3 / int(labels.ne(-100).sum())
    assert ours == pytest.approx(float(expected) * factor, rel=1e-5)
    assert halves == pytest.approx(float(ours) / 2, rel=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_tones(tmp_path_factory.mktemp("data") / "train", task="asr", n=6)


@pytest.fixture(scope="module")
def trained(base, data, tmp_path_factory):
    """exp/ with two LoRA adapters and a fully trained model, made by the verbs; the first overfits."""
    exp = tmp_path_factory.mktemp("work") / "exp"
    tones = tiny_tones(data.parent / "kws", task="kws", n=6)
    common = ["--model", str(base), "--device", "cpu", "--precision", "fp32", "--audio-context", "dynamic",
              "--audio-context-min", "0.5", "--exp-dir", str(exp), "--batch-size", "6"]
    for name, task, folder, more in (
        ("lora", "asr", data, ["--rank", "8", "--learning-rate", "2e-2", "--epochs", "50", "--eval-steps", "50"]),
        ("kws", "kws", tones, ["--rank", "4", "--learning-rate", "1e-2", "--epochs", "2"]),
        ("full", "asr", data, ["--tuning", "full", "--learning-rate", "5e-3", "--epochs", "50", "--eval-steps", "50"]),
    ):
        assert main(["train", "--task", task, "--data", str(folder), "--dev", str(folder), "--name", name,
                     "--output-dir", str(exp / task / name), *common, *more]) == 0
    return exp


def texts_of(model, data, task="asr", **options):
    from speechmerge.decode import Options, hypotheses

    task = get_task(task)
    found = hypotheses(model, task, task.examples(DataDir.read(data)), options=Options(**options))
    return {h.id: h.text for rows in found for h in rows}


def test_an_adapter_overfits_and_plain_peft_loads_it(base, data, trained, waves):
    from peft import PeftModel

    folder = trained / "asr/lora"
    assert read_json(folder / "speechmerge.json")["dev"]["wer"] == 0.0
    model = load_model(base, **DYNAMIC)
    before = texts_of(model, data)
    with model.adapter(folder):
        assert set(texts_of(model, data).values()) == {"yes", "no", "stop"}
        batch = batch_of(model, examples(waves), get_task("asr"), training=True)
        batch.pop("labels")
        with torch.no_grad():
            expected = model.core(**batch).logits
    assert texts_of(model, data) == before
    plain = PeftModel.from_pretrained(load_model(base, **DYNAMIC).core, folder).eval()
    with torch.no_grad():
        assert torch.allclose(plain(**batch).logits, expected, atol=1e-4)


def test_full_tuning_is_a_model_for_espnet_and_for_us(base, data, trained, waves):
    folder, start = trained / "asr/full", load_model(base, **DYNAMIC)
    tuned = load_model(folder, **DYNAMIC)
    assert (folder / "model.pth").is_file() and tuned.fingerprint() != start.fingerprint()
    names = Checkpoint(base).entries
    assert set(Checkpoint(folder).entries) == set(names)  # one base for both, buffers too
    mine, theirs = tuned.core.state_dict(), speech2text(folder).s2t_model.state_dict()
    assert all(torch.equal(theirs[name], mine[name]) for name in names)
    assert torch.equal(mine["normalize.mean"], start.core.state_dict()["normalize.mean"])
    with start.adapter(folder):
        assert texts_of(start, data) == texts_of(tuned, data)
    restored, file = start.core.state_dict(), Checkpoint(base)
    for name in names:
        assert torch.equal(restored[name], file.tensor(name).float())  # ESPnet's statistics are float64


def test_a_killed_full_training_goes_on_with_its_weights(base, trained):
    model = load_model(base, **DYNAMIC)
    assert model.restore(trained / "asr/full")
    expected = Checkpoint(trained / "asr/full").tensor("ctc.ctc_lo.weight")
    assert torch.equal(model.core.ctc.ctc_lo.weight, expected)


def test_merges_decode_and_score(base, data, trained, tmp_path):
    merged = tmp_path / "merged"
    folders = [str(trained / "asr/lora"), str(trained / "kws/kws")]
    assert main(["merge", "--adapters", *folders, "--method", "task_arithmetic", "--param", "scale=0.5", "--output-dir",
                 str(merged)]) == 0
    assert main(["evaluate", "--task", "asr", "--adapter", str(merged), "--data", str(data), "--device", "cpu",
                 "--output-dir", str(tmp_path / "scored"), "--exp-dir", str(tmp_path / "exp")]) == 0
    assert (tmp_path / "scored/hyp").read_text().count("\n") == 6


def test_the_bank_is_the_merged_weights(base, trained, waves, tmp_path):
    folders = [trained / "asr/lora", trained / "kws/kws"]
    assert main(["merge", "--adapters", *map(str, folders), "--method", "weighted", "--param", "coefficients=0.25,0.75",
                 "--output-dir", str(tmp_path / "merged")]) == 0
    model = load_model(base, **DYNAMIC)
    batch = batch_of(model, examples(waves), get_task("asr"), training=True)
    batch.pop("labels")
    with torch.no_grad():
        with model.adapter(tmp_path / "merged"):
            expected = model.core(**batch).logits
        bank = AdapterBank(model.core, folders, base=model.path)
        with bank.using(Coefficients.per_task([0.25, 0.75])):
            found = model.core(**batch).logits
        task = get_task("asr")
        with bank.using(Coefficients.per_utterance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))):
            routed = model.generate(batch_of(model, examples(waves), task), task, num_beams=2)
        bank.remove()
        for row, folder in enumerate((folders[0], folders[1], folders[0])):
            with model.adapter(folder):
                assert model.generate(batch_of(model, examples(waves), task), task, num_beams=2)[row] == routed[row]
        assert torch.allclose(found, expected, atol=2e-4)
        assert not torch.allclose(model.core(**batch).logits, expected, atol=1e-2)


def test_full_merges_are_read_by_espnet(base, trained, tmp_path):
    merged = tmp_path / "merged"
    assert main(["merge", "--adapters", str(trained / "asr/full"), "--base", str(base), "--method", "task_arithmetic",
                 "--param", "scale=0.5", "--save", "full", "--output-dir", str(merged)]) == 0
    found, start = speech2text(merged, resources=base).s2t_model.state_dict(), Checkpoint(base)
    tuned = Checkpoint(trained / "asr/full")
    name = "encoder.encoders.0.norm_mha.weight"
    assert torch.allclose(found[name], (start.tensor(name) + tuned.tensor(name)) / 2, atol=1e-6)
    assert load_model(merged, device="cpu").symbols.tokens == load_model(base, device="cpu").symbols.tokens


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_hypotheses_are_those_of_speech2text(base, trained, waves, beams, ctc_weight, monkeypatch):
    """A trained model that ends its texts by itself, and a random one that is stopped after ten tokens."""
    task, said = get_task("asr"), set()
    for folder, ratio, most in ((trained / "asr/full", 0.0, 80), (base, -10.0, 10)):
        theirs = speech2text(folder, beam_size=beams, ctc_weight=ctc_weight, maxlenratio=ratio)
        model = load_model(folder, device="cpu")
        monkeypatch.setattr(model, "ctc_weight", ctc_weight)
        monkeypatch.setattr(task, "max_new_tokens", most)
        for prompt in (None, "play the lamp"):
            batch = batch_of(model, examples(waves, prompt=prompt), task)
            expected = [theirs(padded(path), text_prev=prompt)[0][3].strip() for path in waves]
            assert model.generate(batch, task, num_beams=beams) == expected
            said.update(expected)
    assert len(said) > 2


def test_a_prompt_longer_than_the_audio_with_ctc(base, waves):
    model = load_model(base, **DYNAMIC)
    model.ctc_weight = 0.3
    batch = batch_of(model, examples(waves[:1], prompt="play the lamp " * 20), get_task("asr"))
    with pytest.raises(SpeechMergeError, match="positions heard"):
        model.generate(batch, get_task("asr"))


def test_beams_find_at_least_the_score_of_greedy_and_batches_change_nothing(model, waves):
    task = get_task("kws")
    found = examples(waves)
    together = model.generate(batch_of(model, found, task), task, num_beams=3)
    assert together == [model.generate(batch_of(model, [one], task), task, num_beams=3)[0] for one in found]


def test_label_scores_are_those_of_the_whole_decoder(model, waves):
    task, labels = get_task("kws"), ["yes", "no", "stop", "light on"]
    found = examples(waves, prompt="what keyword is it")
    scores = model.score_labels(batch_of(model, found, task), labels)
    for column, label in enumerate(labels):
        labelled = [Example(e.id, e.audio, label, "en", None, None, e.prompt) for e in found]
        batch = batch_of(model, labelled, task, training=True)
        with torch.no_grad():
            logs = model.core(batch["features"], batch["decoder_input_ids"]).logits.log_softmax(-1)
        wanted = batch["labels"][:, -len(model.answer_ids(label, [0])):]
        chosen = logs[:, -wanted.shape[1]:].gather(-1, wanted[..., None])[..., 0]
        assert torch.allclose(scores[:, column], chosen.mean(-1), atol=1e-4)


def test_label_scores_in_chunks(model, waves, monkeypatch):
    from speechmerge.models.owsm import model as family

    task, labels = get_task("kws"), ["yes", "no", "stop", "light on off", "play"]
    whole = model.score_labels(batch_of(model, examples(waves), task), labels)
    monkeypatch.setattr(family, "LOGITS_BYTES", 1)
    assert torch.allclose(model.score_labels(batch_of(model, examples(waves), task), labels), whole, atol=1e-5)


def test_prefixes(model, waves):
    asr, st, words = get_task("asr"), get_task("st"), model.symbols.tokens

    def prefix(task, **more):
        return [words[id] for id in model.prefix_of(examples(waves[:1], **more)[0], task)]

    assert prefix(asr) == ["<sos>", "<eng>", "<asr>", "<notimestamps>"]
    assert prefix(asr, language="pa-IN")[1] == "<pan>" and prefix(asr, language=None)[1] == "<eng>"
    assert prefix(st, language="hi", target_language="de") == ["<sos>", "<hin>", "<st_deu>", "<notimestamps>"]
    told = prefix(get_task("kws"), prompt="what keyword")
    assert told[0] == "<sop>" and told[-4:] == ["<sos>", "<eng>", "<asr>", "<notimestamps>"] and len(told) > 5
    with pytest.raises(SpeechMergeError, match="no token for the language 'fr' .*<fra>"):
        prefix(asr, language="fr")
    with pytest.raises(SpeechMergeError, match="translation into 'it' .*it translates into eng, deu"):
        prefix(st, target_language="it")


def test_the_language_is_the_symbol_that_is_predicted(base, model, waves):
    task = get_task("langid")
    found = [Example(e.id, e.audio, code, code, None, None, "Which language is spoken?")
             for e, code in zip(examples(waves), ("de", "it", "hi"))]
    batch = batch_of(model, found, task, training=True)
    assert batch["labels"].tolist() == [[model.symbols.ids[f"<{code}>"]] for code in ("deu", "ita", "hin")]
    codes = ["de", "en", "hi", "it", "pa", "te"]
    batch = batch_of(model, found, task)
    texts, scores = model.generate(batch, task), model.score_labels(batch, codes)
    assert texts == [codes[index] for index in scores.argmax(-1).tolist()]
    asked = speech2text(base).s2t_model  # espnet: the first token after <sos>
    with torch.no_grad():
        logs, _ = asked.decoder.score(torch.tensor([asked.sos]), None, model.encode(batch)[0])
    assert logs[model.symbols.ids["<hin>"]] == pytest.approx(float(scores[0, 2]), abs=1e-4)
    with pytest.raises(SpeechMergeError, match="language 'xx'"):
        model.fits(Example("u", (waves[0],), "xx", "xx", None, 1.0), task)


def test_targets_and_blocks(model):
    assert model.target_modules("attention") == ["linear_q", "linear_v"]
    every = model.target_modules()
    assert {"linear_q", "linear_out", "w_1", "channel_proj1.0", "merge_proj"} <= set(every)
    assert not {"output_layer", "ctc_lo", "0", "linear_pos"} & set(every)
    assert all(name.startswith("decoder.") for name in model.target_modules("decoder"))
    assert model.target_modules(["ctc_lo", "linear_k"]) == ["ctc_lo", "linear_k"]
    with pytest.raises(UsageError, match="q_proj"):
        model.target_modules(["q_proj"])
    for name in ("encoder.encoders.1.attn.linear_q.weight", "decoder.decoders.0.feed_forward.w_1.bias"):
        assert model.block_of(name) == block_of(name) == (name.split(".")[0], int(name.split(".")[2]))


def test_gradient_checkpointing_changes_nothing(base, waves):
    gradients = []
    for enabled in (False, True):
        model = load_model(base, **DYNAMIC)
        if enabled:
            model.core.gradient_checkpointing_enable({"use_reentrant": False})
        batch = batch_of(model, examples(waves), get_task("asr"), training=True)
        labels = batch.pop("labels")
        model.loss(model.core.train()(**batch), labels).backward()
        gradients.append(model.core.encoder.encoders[0].attn.linear_q.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].abs().sum() > 0


def test_published_layout_and_names(tmp_path, monkeypatch, base):
    zoo = tiny_owsm(tmp_path / "zoo", layout="zoo")
    model = load_model(zoo, device="cpu")
    assert model.fingerprint() == load_model(base, device="cpu").fingerprint() and model.path == zoo / "exp/s2t_train"
    assert load_model(zoo / "exp/s2t_train/valid.acc.ave.pth", device="cpu").fingerprint() == model.fingerprint()
    shutil.copy(zoo / "exp/s2t_train/valid.acc.ave.pth", zoo / "exp/s2t_train/3epoch.pth")
    assert load_model(zoo, device="cpu").path.name == "valid.acc.ave.pth"
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: asked.append(name) or str(zoo))
    assert load_model("owsm_v4_small", device="cpu").source == "owsm_v4_small"
    assert asked == ["espnet/owsm_v4_small_370M"]
    with pytest.raises(SpeechMergeError, match="OWSM-CTC"):
        load_model("espnet/owsm_ctc_v4_1B")


def test_no_network_is_one_sentence(monkeypatch):
    def fails(name, **options):
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(SpeechMergeError, match="owsm_v4_medium_1B: not in the hub cache.*offline.*hf download"):
        load_model("owsm_v4_medium")


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def change_weights(folder, edit):
    weights = torch.load(folder / "valid.acc.ave.pth", weights_only=True)
    edit(weights)
    torch.save(weights, folder / "valid.acc.ave.pth")


def change_config(folder, **changes):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))


@pytest.mark.parametrize("edit, message", [
    (lambda w: w.update({"encoder.encoders.0.attn.linear_q.lora_A": torch.zeros(2, 32)}), "lora_A.*count twice"),
    (lambda w: [w.pop(name) for name in list(w) if not name.startswith("ctc")], "weights are missing, such as decoder"),
    (lambda w: w.update({"head.weight": torch.zeros(2)}), "1 of .* weights are unknown, such as head.weight"),
    (lambda w: w.update({"ctc.ctc_lo.bias": torch.zeros(3)}), r"ctc_lo.bias has shape \(3,\)"),
    (lambda w: w.update({"ctc.ctc_lo.bias": {"code": 1}}), "expected names and tensors"),
])
def test_weights_that_are_not_the_whole_model(copy, edit, message):
    """espnet2 itself loads the first three without a word: strict=False leaves what is missing random."""
    change_weights(copy, edit)
    with pytest.raises(SpeechMergeError, match=message):
        load_model(copy, device="cpu")


def test_deepspeed_checkpoints(copy, base):
    weights = torch.load(copy / "valid.acc.ave.pth", weights_only=True)
    torch.save({"module": dict(weights), "global_steps": 7}, copy / "valid.acc.ave.pth")
    assert load_model(copy, device="cpu").fingerprint() == load_model(base, device="cpu").fingerprint()


class Runs:
    def __reduce__(self):
        return (print, ("code ran",))


def test_nothing_in_the_files_is_run(copy, capsys):
    torch.save({"a": Runs()}, copy / "valid.acc.ave.pth")
    with pytest.raises(SpeechMergeError, match="not a plain file of weights"):
        load_model(copy, device="cpu")
    with (copy / "config.yaml").open("a") as config:
        config.write("evil: !!python/object/apply:builtins.print ['code ran']\n")
    with pytest.raises(SpeechMergeError, match="config.yaml: not plain YAML"):
        load_model(copy, device="cpu")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("changes, message", [
    ({"use_adapter": True}, "use_adapter.*ESPnet's own adapters"),
    ({"token_type": "char"}, "token_type 'char'"),
    ({"frontend": "s3prl"}, "frontend 's3prl'"),
    ({"bpemodel": "elsewhere/other.model"}, "bpemodel elsewhere/other.model is not there"),
])
def test_configs_that_are_refused(copy, changes, message):
    change_config(copy, **changes)
    with pytest.raises(SpeechMergeError, match=message):
        load_model(copy, device="cpu")


def test_a_vocabulary_of_another_model(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    tokens = ["▁else" if token == "<hin>" else token for token in config["token_list"]]
    change_config(copy, token_list=tokens)
    with pytest.raises(SpeechMergeError, match="pieces, such as '<hin>', are not in the token list"):
        load_model(copy, device="cpu")


def test_decoding_options_beside_the_model(copy):
    (copy / "decode.yaml").write_text("beam_size: 5\nctc_weight: 0.3\n")
    model = load_model(copy, device="cpu")
    assert model.ctc_weight == 0.3 and model.equipment(None) == [copy / "decode.yaml"]
    (copy / "decode.yaml").write_text("ctc_weight: 3\n")
    with pytest.raises(SpeechMergeError, match="ctc_weight: found 3"):
        load_model(copy, device="cpu")


def test_without_espnet(base, monkeypatch):
    monkeypatch.delitem(sys.modules, "speechmerge.models.owsm.network")
    monkeypatch.setitem(sys.modules, "espnet2", None)
    with pytest.raises(SpeechMergeError, match="OWSM needs ESPnet.*tools/install_espnet.sh"):
        load_model(base, device="cpu")


def test_language_codes():
    assert languages.candidates("it")[1] == "ita" and languages.candidates("pa-IN")[1] == "pan"
    assert languages.candidates("yue") == ["yue"] and languages.candidates("zh")[1:3] == ["zho", "cmn"]
    assert languages.short("pan") == "pa" and languages.short("cmn") == "zh" and languages.short("ckb") == "ckb"
    assert len(languages.THREE) > 180 and all(len(three) == 3 for three in languages.THREE.values())


def test_what_is_no_model_of_this_family(tmp_path):
    (tmp_path / "config.yaml").write_text("encoder: x\nlearning_rate: 1\n")
    assert not layout.recognises(tmp_path)
    with pytest.raises(SpeechMergeError, match="no config.json"):
        load_model(tmp_path)
