"""What a user can choose about a download run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"]
"""Formats by Pillow's names. TIFF is known but not in the default: few sites serve it, and it has many odd dialects."""

DEFAULT_FORMATS: frozenset[ImageFormat] = frozenset({"JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"})


class ImageOptions(BaseModel):
    """Options of one download run: frozen, checked on creation, units in the names.

    Attributes:
        workers: Threads that download at the same time; None means 16.
        chunksize: URLs per Prefect task run, or "auto" for runs of a few seconds.
        max_failed: The run fails with TooManyFailures when more items than this failed; None means any number may.
        retry_failed: Fetch again what failed in an earlier run in the same run directory.
        fresh: Remove what an earlier run left in the run directory and start anew.
        url_column: Column (csv, tsv, parquet) or member (jsonl) that holds the URL.
        keep_queries: Keep the queries of URLs, signatures of signed URLs included, in the ledger, the report and the
            parameters of the flow run. Without them a URL is told from others by a digest of its query. Choose once for
            a run directory: a URL with a query has another key with the other choice, so it is fetched again.
        client: The HTTP client; "auto" is requests.
        allow_private: Also connect to loopback, private and link-local addresses.
        allow_unresolved: Behind a proxy, also ask it for host names that cannot be looked up on this machine. The proxy
            alone then decides where they lead, so it must refuse private addresses itself.
        allow_downgrade: Follow a redirect from https to http, as browsers, curl and wget do.
        user_agent: The User-Agent header. Many sites ask for a contact address in it.
        ca_bundle: PEM file of the certificate authorities to trust; None means those that requests ships.
        timeout_s: Total seconds for one try: look-up, connect, TLS, redirects, headers and body.
        connect_timeout_s: Seconds for the look-up and for the connection, TLS included, of one hop.
        read_timeout_s: Seconds without a single byte before a try is given up.
        max_bytes: Largest body, in bytes, both as sent and after Content-Encoding is undone.
        max_redirects: Redirects that are followed.
        retries: Further tries after a failure that may pass (connection faults, 408, 425, 429 and 5xx).
        retry_wait_s: Longest wait before the first retry; it doubles each time, the real wait is random below it.
        retry_wait_cap_s: Longest wait between two tries when the server names none.
        retry_after_cap_s: Longest Retry-After that is waited for; a longer one ends the item.
        retry_limit_s: No retry starts later than this many seconds after the item's first try.
        verify: Both levels find every cut, in whichever frame it is. "header" walks to the end of a PNG, with all
            checksums, of a WebP, of a GIF, and of a JPEG and the pictures that its multi-picture index lists; it
            decodes BMP, all pages of a TIFF, and the first frame of a GIF or an AVIF. It does not find damage inside a
            JPEG or a WebP, nor inside a later frame of a GIF or an AVIF. "full" decodes every frame of every format,
            a JPEG at an eighth of its size; libjpeg passes over most damage inside. Neither level looks at data behind
            a JPEG that no index lists (films, previews, gain maps that only XMP names), misses a listed picture that is
            gone altogether, as editors drop them, or asks for the trailer of a GIF of one frame.
        formats: Formats that are kept, by Pillow's names.
        max_pixels: Largest width x height of every frame, checked before anything is decoded. All checks together take
            1 GiB of memory at most, and decoding one file computes 50 times as many pixels at most: an image that
            needs more is refused, too.
        min_side_px: Smallest width and height that is kept; 2 drops tracking pixels.
        max_frames: Most frames of an animated image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    chunksize: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    max_failed: Annotated[int, Field(ge=0)] | None = None
    retry_failed: bool = False
    fresh: bool = False

    url_column: Annotated[str, Field(min_length=1)] = "url"
    keep_queries: bool = True
    client: Literal["auto", "requests", "curl"] = "auto"
    allow_private: bool = False
    allow_unresolved: bool = False
    allow_downgrade: bool = True
    user_agent: Annotated[str, Field(min_length=1, pattern=r"^[\x20-\x7e]+$")] = "prefect-fanout/0.1"
    ca_bundle: Path | None = None

    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    connect_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    read_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 20.0
    max_bytes: Annotated[int, Field(ge=1, le=4 * 1024**3)] = 64 * 1024**2
    max_redirects: Annotated[int, Field(ge=0, le=50)] = 10

    retries: Annotated[int, Field(ge=0, le=10)] = 2
    retry_wait_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    retry_wait_cap_s: Annotated[float, Field(ge=0, le=600)] = 8.0
    retry_after_cap_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    retry_limit_s: Annotated[float, Field(ge=0, le=3600)] = 120.0

    verify: Literal["header", "full"] = "header"
    formats: Annotated[frozenset[ImageFormat], Field(min_length=1)] = DEFAULT_FORMATS
    # The upper bound is where Pillow itself refuses an image (twice Image.MAX_IMAGE_PIXELS).
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 80_000_000
    min_side_px: Annotated[int, Field(ge=1, le=65_535)] = 1
    max_frames: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
