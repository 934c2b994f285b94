"""Wire messages as plain JSON values, with the field names of the protos as keys.

As protobuf's own JSON form (times RFC 3339, durations like `3600s`), but with every key always present, numbers of 64
bits as numbers, and the names of enumeration values in lowercase.
"""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def to_plain(message: Message) -> Any:
    """The message as what `json.dumps` takes; a message field that is not set is None."""
    if isinstance(message, Timestamp | Duration):
        return message.ToJsonString()
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:  # protobuf has two classes of descriptors
    value = getattr(message, field.name)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {str(key): _one(value[key], entry.fields_by_name["value"]) for key in sorted(value)}
    if field.is_repeated:
        return [_one(item, field) for item in value]
    if entry is not None and not message.HasField(field.name):
        return None
    return _one(value, field)


def _one(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return to_plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name.lower() if known is not None else value  # a newer server's value stays a number
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
