"""What the user gave and should mend."""


class SimulateError(ValueError):
    """Bad input; the message names what and where."""
