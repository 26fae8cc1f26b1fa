"""What the metadata of a model file says to this server: JSON, under some of the keys of model.yaml.

Other tools may use the same keys for their own ends. So what is not of our form, or names what the model does not have,
is left alone.
"""

import json
from collections.abc import Mapping


def json_in(metadata: Mapping[str, str], key: str) -> object:
    """Return the value of a key; None if there is none, or if it is not JSON of valid Unicode."""
    try:
        value: object = json.loads(metadata.get(key, "null"))
        json.dumps(value, ensure_ascii=False).encode()  # an escape may stand for a lone surrogate
        return value
    except (ValueError, RecursionError):  # RecursionError: another tool's, or an attack; ours are two levels deep
        return None
