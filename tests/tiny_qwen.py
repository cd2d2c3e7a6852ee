"""Tiny random audio LLMs: the real classes of transformers on small configurations, with processors built on the spot.

    base = tiny_qwen2_audio(tmp_path / "base")                # as the published folders look, file by file
    base = tiny_omni(tmp_path / "omni", full=True)            # thinker and talker, of which only the thinker is loaded

The tokenizer is a byte-level BPE with the published special tokens; the chat templates write the published format.
"""
import json
from pathlib import Path

TEXTS = ["Transcribe the speech.", "Which keyword is spoken?", "What is the intent of the speaker?", "yes no stop",
         "light on light off play", "You are a helpful assistant.", "You are Qwen, a virtual human developed by the Qwen Team",
         "system user assistant", "Is this the same speaker in both recordings?", "Answer with one of these words only:",
         '{"scenario": "alarm", "action": "query", "entities": [{"type": "date", "filler": "today"}]}']
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|IMAGE|>",
           "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>"]
NAMED = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
         "image_token": "<|IMAGE|>", "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>",
         "vision_eos_token": "<|vision_eos|>"}
SECONDS, MELS = 4, 16
TEMPLATE = """{%- set ns = namespace(audios=0) -%}
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' -%}
{%- set ns.audios = ns.audios + 1 -%}
{{- AUDIO -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""
NUMBERED = "'Audio ' ~ ns.audios ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n'"
PLAIN = "'<|audio_bos|><|AUDIO|><|audio_eos|>'"


def tiny_tokenizer(special=SPECIAL, size=330):
    """Byte-level BPE over TEXTS, trained here; all special tokens after the ordinary ones, as published."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    named = {name: token for name, token in NAMED.items() if token in special}
    return Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>",
                          additional_special_tokens=list(special), **named)


def extractor(mels=MELS, seconds=SECONDS):
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds, return_attention_mask=True)


def language_model(tokenizer) -> dict:
    """Settings of the text part. Weights are larger than published ones start, so that a small adapter can decide."""
    return {"vocab_size": len(tokenizer) + 6, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2}


def tiny_qwen2_audio(dir, seed=0, tokenizer=None):
    """A random Qwen2-Audio (config, weights, processor, generation config as published) in `dir`, which is returned."""
    import torch
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tokenizer = tokenizer or tiny_tokenizer()
    audio = {"num_mel_bins": MELS, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
             "max_source_positions": SECONDS * 50, "initializer_range": 0.1, "model_type": "qwen2_audio_encoder"}
    config = Qwen2AudioConfig(audio_config=audio, text_config={**language_model(tokenizer), "model_type": "qwen2"},
                              audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"))
    Qwen2AudioProcessor(extractor(), tokenizer, chat_template=TEMPLATE.replace("AUDIO -", f"{NUMBERED} -", 1)).save_pretrained(dir)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return saved(Qwen2AudioForConditionalGeneration(config), tokenizer, dir)


def thinker_config(tokenizer) -> dict:
    ids = {name: tokenizer.convert_tokens_to_ids(NAMED[f"{name}_token"]) for name in ("audio", "image", "video")}
    audio = {"num_mel_bins": MELS, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
             "max_source_positions": 100, "n_window": 25, "output_dim": 64, "initializer_range": 0.1}
    sight = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
             "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    return {"audio_config": audio, "vision_config": sight, "text_config": {**language_model(tokenizer), "rope_parameters": rope,
                                                                          "tie_word_embeddings": False},
            "audio_token_index": ids["audio"], "image_token_index": ids["image"], "video_token_index": ids["video"],
            "audio_start_token_id": tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
            "audio_end_token_id": tokenizer.convert_tokens_to_ids("<|audio_eos|>"),
            "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_bos|>"), "initializer_range": 0.2,
            "model_type": "qwen2_5_omni_thinker"}


def tiny_omni(dir, seed=0, full=False):
    """A random thinker of Qwen2.5-Omni in `dir`; full: with weights of a talker beside it, as the published checkpoints."""
    import torch
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    dir, tokenizer = Path(dir), tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**thinker_config(tokenizer)))
        saved(model, tokenizer, dir)
    tokenizer.save_pretrained(dir)
    extractor().save_pretrained(dir)
    (dir / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE.replace("AUDIO -", f"{PLAIN} -", 1)}))
    if full:
        add_talker(dir)
    return dir


def add_talker(dir):
    """The folder as if it were the full Omni: `thinker.` before the names, weights of others, its configuration around."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(dir / "model.safetensors")
    weights = {f"thinker.{name.removeprefix('thinker.')}": value for name, value in weights.items()}
    weights |= {"talker.model.norm.weight": torch.ones(8), "token2wav.code2wav_dit_model.norm.weight": torch.ones(8)}
    save_file(weights, dir / "model.safetensors", metadata={"format": "pt"})
    thinker = json.loads((dir / "config.json").read_text())
    (dir / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"],
                                                 "enable_audio_output": True, "thinker_config": thinker}))


def saved(model, tokenizer, dir):
    """Weights in the format of the hub; the generation config samples and punishes repetition, as the published ones do."""
    model.generation_config.update(
        do_sample=True, top_p=0.5, top_k=20, temperature=0.7, repetition_penalty=1.1, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")])
    model.save_pretrained(dir)
    return Path(dir)
