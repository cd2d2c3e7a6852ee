"""What a user can put right. Shown as one line on stderr; the traceback only with --debug."""


class SpeechMergeError(Exception):
    """Bad input or a failed step (exit status 1). Names the file, utterance or key, what was found, and what was expected."""


class UsageError(SpeechMergeError):
    """A command line or config that cannot be meant (exit status 2)."""
