"""The one exception that users are meant to read."""


class CareError(Exception):
    """A clear refusal: what was expected, what came, what to do next.

    Library code raises it; only the command line prints it, and exits with 2.
    """
