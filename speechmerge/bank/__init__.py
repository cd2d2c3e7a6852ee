"""Many adapters on one base at once, mixed by coefficients at run time: per task, layer, utterance or frame.

    bank = AdapterBank(model.core, ["exp/asr/lora", "exp/kws/lora"])
    with bank.using(Coefficients.per_task([0.7, 0.3])):
        texts = model.generate(batch, task)
"""
from speechmerge.bank.bank import AdapterBank
from speechmerge.bank.coefficients import Coefficients

__all__ = ["AdapterBank", "Coefficients"]
