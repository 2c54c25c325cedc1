"""Numbers, sizes and times as text for messages. No torch, so that preprocessing can use it."""


def count(value: float) -> str:
    """A large number, rounded.

    >>> count(65_536_000_000), count(12_345)
    ('65.5 billion', '12,345')
    """
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:,.0f}"


def amount(number: int, noun: str) -> str:
    """A number of things.

    >>> amount(1, "step"), amount(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def in_bytes(size: float) -> str:
    """A size of a file, in decimal units.

    >>> in_bytes(999), in_bytes(1_234_567)
    ('999 bytes', '1.2 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as a clock shows them.

    >>> duration(3725), duration(90_061)
    ('1:02:05', '1 day 1:01:01')
    """
    whole = round(seconds)
    days, hours = divmod(whole // 3600, 24)
    clock = f"{hours}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{amount(days, 'day')} {clock}" if days else clock


def seconds_text(seconds: float) -> str:
    """Seconds; from 100 on as `duration`.

    >>> seconds_text(0.42), seconds_text(37.2), seconds_text(3725)
    ('0.42 s', '37 s', '1:02:05')
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.0f} s" if seconds < 100 else duration(seconds)


def in_time(seconds: float) -> str:
    """The two largest units of a time.

    >>> in_time(7.25), in_time(75), in_time(4000)
    ('7.2 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def hours(value: float) -> str:
    """An estimate in hours, in the unit that suits it.

    >>> hours(0.2), hours(30.26), hours(100)
    ('12 min', '30.3 h', '4.2 days')
    """
    if value < 1.0:
        return f"{value * 60:.0f} min" if value * 60 >= 1 else f"{value * 3600:.0f} s"
    return f"{value:.1f} h" if value < 72 else f"{value / 24:.1f} days"
