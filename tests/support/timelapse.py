"""Prometheus' rules at another speed, so that what takes minutes in production takes seconds in a test."""

import re

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_DURATION = rf"(?:{_PART.pattern.replace('(', '(?:')})+"
_IN_EXPRESSION = re.compile(rf'"[^"]*"|(\[|:|\boffset -?)({_DURATION})')  # strings are left alone
_TIMES = {"for", "interval", "keep_firing_for"}


def seconds(duration):
    """1.5 for "1s500ms"."""
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def faster(expression, factor):
    """An expression whose ranges and offsets are shorter by a factor. Rates stay: a second is a second."""
    return _IN_EXPRESSION.sub(lambda found: found[1] + _shorter(found[2], factor) if found[1] else found[0], expression)


def faster_rules(groups, factor):
    """Groups of rules whose intervals, ranges and pending times are shorter by a factor."""
    if isinstance(groups, list):
        return [faster_rules(one, factor) for one in groups]
    if not isinstance(groups, dict):
        return groups
    made = {key: faster_rules(value, factor) for key, value in groups.items()}
    made |= {key: _shorter(made[key], factor) for key in _TIMES & set(made)}
    return made | ({"expr": faster(made["expr"], factor)} if "expr" in made else {})


def _shorter(duration, factor):
    return f"{seconds(duration) / factor * 1000:.0f}ms"
