"""When which phone and which word is said: tables of times, espeak-ng's own times, forced alignment. See times.py."""
