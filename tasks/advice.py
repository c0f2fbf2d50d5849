"""What to do about a kind of failure: one sentence per kind that the pipelines write into their ledgers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_AGAIN = "Run again with `retry_failed`: it may go better later."
_OWNER = "Only the owner of the server can mend that; take the address from another source."
_NETWORK = "Check this machine's network, then run again with `retry_failed`."
_BYTES = "Open the address in a browser to see what is there; the site may have moved the image or block programs."
_SOURCE = "Get the file again from where it came, then run again with `retry_failed`."

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        # images: the address and the way to the server
        "invalid_url": "Correct the address in the list.",
        "blocked_address": "If you trust this address of your own machine or network, allow it with `allow_private`.",
        "dns": "Check the spelling of the host name; the host may be gone.",
        "dns_temporary": _NETWORK,
        "unreachable": _NETWORK,
        "refused": _AGAIN,
        "reset": _AGAIN,
        "timeout_connect": "Run again with `retry_failed`, or allow more time (`connect_timeout_s`).",
        "timeout_first_byte": "Run again with `retry_failed`, or allow more time (`read_timeout_s`).",
        "timeout_read": "Run again with `retry_failed`, or allow more time (`read_timeout_s`).",
        "timeout_total": "Run again with `retry_failed`, or allow more time (`timeout_s`).",
        "tls": _OWNER,
        # images: the server's answer
        "rate_limited": "The server wants fewer requests: run again later with `retry_failed` and fewer workers.",
        "http_3xx": _BYTES,
        "http_4xx": "The server has no such image for you: check the address, or whether it needs a login.",
        "http_5xx": "The server had a problem of its own. " + _AGAIN,
        "too_many_redirects": "The address leads in circles: open it in a browser and list where it ends.",
        "bad_response": _OWNER,
        "bad_encoding": _OWNER,
        "empty_body": _BYTES,
        "truncated": _AGAIN,
        "decode_bomb": "The body grows without end when unpacked; leave this address out.",
        "too_large": "If you want bodies of that size, raise `max_bytes`.",
        # images: the bytes
        "not_an_image": _BYTES,
        "decode_error": "The file is damaged where it comes from, or was cut on the way. " + _AGAIN,
        "format_not_allowed": "If you want this format, add it to the formats to keep.",
        "too_many_pixels": "If you trust the source, raise `max_pixels`, unless the sentence names the memory.",
        "too_many_frames": "If you trust the source, raise `max_frames`.",
        "too_small": "If you want images of that size, lower `min_side_px`.",
        # tables
        "outside_folder": "Put the file itself into the folder, or set `follow_links` if you trust its writers.",
        "not_a_file": "Only regular files are read: take it out of the folder, or name the files in it.",
        "unreadable": "Check that the file is there and may be read, then run again with `retry_failed`.",
        "vanished": "The file was removed while the run was on: put it back, then run again with `retry_failed`.",
        "changed": "The file was written to while it was read: wait until it is complete, then run again.",
        "compressed": "Decompress the file first: plain and gzip files are read.",
        "damaged_gzip": _SOURCE,
        "truncated_gzip": _SOURCE,
        "apple_double": "Leave it out: it is no table, but a Mac's notes about the file of the same name without `._`.",
        "encoding": "Save the file as UTF-8, or name its encoding with `encoding` (cp1252 and mac-roman are common).",
        "no_header": "Add a first record with the names of the columns.",
        "header_mismatch": "Correct the header, skip the lines before it with `skip_lines`, or name the `delimiter`.",
        "one_column": "Skip the lines before the table with `skip_lines`, or name the `delimiter`.",
        "too_many_columns": "Check the delimiter: a file of this many columns is seldom meant.",
        "too_many_rejects": "Look at its rejects, then correct the file or the options, or raise `max_rejects`.",
    }
)
"""By kind; a kind that is not listed is looked up by what stands before its first underscore."""


def what_to_do(kind: str, own: Mapping[str, str] | None = None) -> str:
    """Give the advice for a kind of failure.

    Args:
        kind: as in the ledger's column `error_kind`.
        own: advice of the pipeline, which comes first.
    """
    family = kind.partition("_")[0]
    for table in (own or {}, ADVICE):
        for name in (kind, family):
            if name in table:
                return table[name]
    return "Read the sentence in the ledger's column `error`; it says what was expected and what was got."
