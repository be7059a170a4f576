"""Errors whose messages are written for the user: `ssr1-rl` prints these as sentences, others with a traceback."""


class Explained(Exception):
    """The message says what is wrong, where, and how to fix it."""


class UserError(Explained, ValueError):
    """The user's settings, files or data have to change."""


class RunError(Explained, RuntimeError):
    """The run cannot continue; the message names who failed, where, and what to do."""


class ConfigError(UserError):
    """A setting that the user has to change; the message gives the field, its value and the fix."""
