"""All rules: importing this module registers them."""

from onnxserve_server.rows import (
    control_rules,
    cutting_rules,
    elementwise_rules,
    indexing_rules,
    microsoft_rules,
    other_rules,
    product_rules,
    reducing_rules,
    reshaping_rules,
    sequence_rules,
    sizing_rules,
    table_rules,
    text_rules,
)
from onnxserve_server.rows.registry import RULES

__all__ = [
    "RULES",
    "control_rules",
    "cutting_rules",
    "elementwise_rules",
    "indexing_rules",
    "microsoft_rules",
    "other_rules",
    "product_rules",
    "reducing_rules",
    "reshaping_rules",
    "sequence_rules",
    "sizing_rules",
    "table_rules",
    "text_rules",
]
