"""Files and weights of an audio LLM: checked, then loaded where and as Loading says."""
import importlib.util

from speechmerge.errors import SpeechMergeError
from speechmerge.models.loading import Loading, pick_device, require_files

UNQUANTIZED = ["lm_head", "model.audio_tower", "model.multi_modal_projector", "model.visual"]  # small, and they hear


def require_model(path):
    require_files(path, {"tokenizer": ["tokenizer.json", "vocab.json"],
                         "feature extractor": ["preprocessor_config.json", "processor_config.json"],
                         "weights as safetensors": ["model.safetensors", "model.safetensors.index.json"]})


def hearing_processor(path):
    """Qwen2.5-Omni's processor without its eyes, for which transformers would want torchvision."""
    from transformers import AutoTokenizer, Qwen2_5OmniProcessor, WhisperFeatureExtractor
    from transformers.processing_utils import ProcessorMixin

    class HearingProcessor(Qwen2_5OmniProcessor):
        def __init__(self, feature_extractor=None, tokenizer=None, chat_template=None):
            ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
            for name in ("audio", "image", "video"):
                setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token", None))
            self.audio_token_id = tokenizer.convert_tokens_to_ids(self.audio_token) if self.audio_token else None

    settings, _ = Qwen2_5OmniProcessor.get_processor_dict(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    return HearingProcessor(WhisperFeatureExtractor.from_pretrained(path), tokenizer,
                            settings.get("chat_template") or tokenizer.chat_template)


def check_vocabulary(path, config, processor):
    """Raises SpeechMergeError where tokenizer, template, features and network cannot belong together."""
    tokenizer, text, audio = processor.tokenizer, config.get_text_config(), config.audio_config
    if not processor.chat_template:
        raise SpeechMergeError(f"{path}: no chat template (expected chat_template.json, chat_template.jinja or the key "
                               "chat_template of tokenizer_config.json); copy the whole folder again")
    if len(tokenizer) > text.vocab_size:
        raise SpeechMergeError(f"{path}: the tokenizer has {len(tokenizer)} tokens, the network {text.vocab_size}: they do not "
                               "belong together; copy both from the same model")
    known = tokenizer.get_vocab()
    if known.get(processor.audio_token) != config.audio_token_id:
        raise SpeechMergeError(f"{path}: the tokenizer has {processor.audio_token} at {known.get(processor.audio_token)}, "
                               f"config.json at {config.audio_token_id}; copy tokenizer and weights from the same model")
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        if token not in known:
            raise SpeechMergeError(f"{path}: the tokenizer has no {token}, with which turns begin or end; copy the tokenizer "
                                   "of this model again")
    check_features(path, audio, processor.feature_extractor)


def check_features(path, audio, extractor):
    if extractor.feature_size != audio.num_mel_bins:
        raise SpeechMergeError(f"{path}: preprocessor_config.json makes {extractor.feature_size} mel bins, the network takes "
                               f"{audio.num_mel_bins}; copy both from the same model")
    chunked, most = hasattr(audio, "n_window"), audio.max_source_positions * 2
    if not chunked and extractor.nb_max_frames != most:
        raise SpeechMergeError(f"{path}: preprocessor_config.json makes {extractor.nb_max_frames} frames, the network takes "
                               f"{most}; copy both from the same model")


def load_network(network, path, loading: Loading, options: dict):
    """The network in evaluation mode. SpeechMergeError where weights are missing or have other shapes."""
    from transformers import GenerationConfig

    if loading.quantization:
        options = {**options, "quantization_config": quantization(loading)}
    device = None if loading.device_map else pick_device(loading.device)
    if loading.device_map or loading.quantization:
        options = {**options, "device_map": loading.device_map or {"": device}}
    module, found = network.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        raise SpeechMergeError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; copy the whole folder again")
    module.generation_config = GenerationConfig()  # the published one samples; what is saved is the file of the base
    return (module if "device_map" in options else module.to(device)).eval()


def quantization(loading: Loading):
    """BitsAndBytesConfig of a frozen base: nf4 with double quantization, or 8 bits."""
    import torch
    from transformers import BitsAndBytesConfig

    if not importlib.util.find_spec("bitsandbytes"):
        raise SpeechMergeError(f"--quantization {loading.quantization}: the package bitsandbytes is not installed; run "
                               "`pip install bitsandbytes`")
    if loading.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTIZED)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=getattr(torch, loading.dtype), llm_int8_skip_modules=UNQUANTIZED)
