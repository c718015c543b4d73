"""The one exception that users are meant to read."""


class CareError(Exception):
    """A clear refusal: what was expected, what came, what to do next.

    Library code raises it; only the command line prints it, and exits with 2.
    """


class NotBegunError(CareError):
    """There is no catalog yet where one was to be opened, or the file was left empty when it was to be begun."""
