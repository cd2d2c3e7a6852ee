"""The algebra: deltas, task vectors, merge methods, reading and saving.

The package itself can be called; everything heavy is imported only then:

    import speechmerge
    merged = speechmerge.merge(["exp/asr/lora", "exp/emotion/lora"], method="ties", k=20)
    merged.save("exp/merged/asr_emotion", as_="lora", rank=16)
"""
import sys
import types

from speechmerge.merge.registry import METHODS

__all__ = ["METHODS"]


class _Callable(types.ModuleType):
    def __call__(self, adapters, method="uniform", base=None, merge_mode="common", **params):
        """See :func:`speechmerge.merge.run.merge`."""
        from speechmerge.merge.run import merge

        return merge(adapters, method=method, base=base, merge_mode=merge_mode, **params)


sys.modules[__name__].__class__ = _Callable
