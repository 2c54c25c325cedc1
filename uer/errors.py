"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """Bad input: its message is one line that names the file, the line or the flag.

    Entry scripts print the message without a traceback and leave with status 2 (see `uer.cli.run`).
    Everything else that is raised is a bug of ours and keeps its traceback.
    """
