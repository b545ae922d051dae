"""The error that the command line prints as a sentence."""


class UserError(ValueError):
    """What the user gave (a text, a run folder, a setting) cannot be used; the message is one sentence."""
