"""The two families: Qwen2-Audio, and the part of Qwen2.5-Omni that hears, reads and writes (its "thinker")."""
import torch

from speechmerge.models.base import FAMILIES
from speechmerge.models.loading import pretrained_options
from speechmerge.models.qwen_audio.conversation import audio_tokens
from speechmerge.models.qwen_audio.loading import check_vocabulary, hearing_processor, load_network, require_model
from speechmerge.models.qwen_audio.model import QwenAudio


class Loaded(QwenAudio):
    """Loading, with everything checked that can be before gigabytes of weights are read."""

    @classmethod
    def load(cls, path, source, loading, context):
        require_model(path)
        network, processor = cls.network(), cls.processor_of(path)
        check_vocabulary(path, network.config_class.from_pretrained(path), processor)
        module = load_network(network, path, loading, pretrained_options(loading))
        return cls(module, processor, source, path, context, loading.quantization)


@FAMILIES.register("qwen2_audio")
class Qwen2Audio(Loaded):
    """Qwen2-Audio, chat or base model: an encoder of Whisper's kind before a Qwen language model."""

    family = "qwen2_audio"
    model_types = ("qwen2_audio",)
    tail = 2

    def __init__(self, module, *args, **kwargs):
        from speechmerge.models.qwen_audio.encoder import AnyLengthEncoder

        module.model.audio_tower.__class__ = AnyLengthEncoder
        super().__init__(module, *args, **kwargs)

    @staticmethod
    def network():
        from transformers import Qwen2AudioForConditionalGeneration

        return Qwen2AudioForConditionalGeneration

    @staticmethod
    def processor_of(path):
        from transformers import Qwen2AudioProcessor

        return Qwen2AudioProcessor.from_pretrained(path)

    def hear(self, features, mask):
        from transformers.masking_utils import create_bidirectional_mask

        tower, lengths = self.core.model.audio_tower, mask.sum(-1)
        places = torch.arange(features.shape[-1] // 2, device=mask.device)[None] < ((lengths - 1) // 2 + 1)[:, None]
        seen = create_bidirectional_mask(config=tower.config, attention_mask=places.long(),
                                         inputs_embeds=torch.zeros(*places.shape, 1, dtype=self.dtype, device=mask.device))
        states = tower(features, attention_mask=seen).last_hidden_state
        return [own[: audio_tokens(length)] for own, length in zip(states, lengths.tolist())]

    def project(self, states):
        return self.core.model.multi_modal_projector(states)


@FAMILIES.register("qwen2_5_omni")
class Qwen2_5Omni(Loaded):
    """Qwen2.5-Omni's thinker, alone or out of the full checkpoint, whose talker is neither loaded nor saved."""

    family = "qwen2_5_omni"
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    system = ("You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
              "visual inputs, as well as generating text and speech.")

    @staticmethod
    def network():
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    @staticmethod
    def processor_of(path):
        return hearing_processor(path)

    def hear(self, features, mask):
        states = self.core.get_audio_features(features, feature_attention_mask=mask).last_hidden_state
        return list(states.split([audio_tokens(length) for length in mask.sum(-1).tolist()]))
