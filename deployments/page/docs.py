"""The description of the API at `/docs`: Swagger UI, out of a package and not out of a CDN."""

import base64
import hashlib
import re
from importlib import resources
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html

from deployments.page.files import PageFile, content_policy

_PACKAGE: Final = "fastapi_swagger.resources"
_ASSETS: Final = {
    "/page/swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript"),
    "/page/swagger-ui.css": ("swagger-ui.css", "text/css"),
    "/page/swagger-ui.png": ("favicon-32x32.png", "image/png"),
}
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def add_docs(app: FastAPI) -> None:
    """Add the routes of the description; they are no part of the API's document."""
    folder = resources.files(_PACKAGE)
    files = {
        path: PageFile((folder / name).read_bytes(), media_type)
        for path, (name, media_type) in _ASSETS.items()
    }
    js_url, css_url, icon_url = _ASSETS
    html = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=f"{app.title}: the API",
        swagger_js_url=js_url,
        swagger_css_url=css_url,
        swagger_favicon_url=icon_url,
    )
    content = bytes(html.body)
    files["/docs"] = PageFile(content, "text/html", policy=_allow_inline_script(content))
    for path, file in files.items():
        app.get(path, include_in_schema=False)(file.send)


def _allow_inline_script(html: bytes) -> str:
    """Return the page's policy with the one script that is written in it, and Swagger's styles."""
    [script] = _INLINE_SCRIPT.findall(html)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")
    return content_policy(script=f"'self' 'sha256-{digest}'")
