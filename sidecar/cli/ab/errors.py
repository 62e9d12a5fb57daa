"""What the user is told."""


class AbError(Exception):
    """One line that names the option and the fix."""
