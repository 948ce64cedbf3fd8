"""What all pages of this program share: a look (page.css.j2), templates in which every value is escaped, a policy that lets nothing in.

ROOM/*.j2 + page.css.j2 --environment--> a page, whose policy names its own style and script by `policy_hash`, so that nothing else applies
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(room: Path) -> Environment:
    """Templates of the folder `room` and those that all pages share."""
    loader = FileSystemLoader([room, Path(__file__).parent])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def policy_hash(text: str) -> str:
    """How a content security policy names a style or script by its content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
