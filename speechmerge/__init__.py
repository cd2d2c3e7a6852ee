"""SpeechMerge: one adapter per speech task, combined in weight space or routed per utterance."""
__version__ = "0.1.0"


def merge(*args, **kwargs):
    """See :func:`speechmerge.merge.run.merge`; imported on first use so that `import speechmerge` stays instant."""
    from speechmerge.merge.run import merge as run_merge

    return run_merge(*args, **kwargs)
