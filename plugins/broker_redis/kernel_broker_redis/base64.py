"""Base64 as fast as this machine can: by pybase64 (the extra `speed`) where it is installed.

The standard library takes about a nanosecond and a half for a byte there, and three back; pybase64 a fiftieth of that.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import partial

to_base64: Callable[[bytes], bytes]
from_base64: Callable[[str | bytes], bytes]
try:
    from pybase64 import b64decode, b64encode
except ImportError:
    to_base64 = partial(b2a_base64, newline=False)
    from_base64 = partial(a2b_base64, strict_mode=True)
else:
    to_base64 = b64encode
    from_base64 = partial(b64decode, validate=True)
