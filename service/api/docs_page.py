"""GET /docs: the documentation as a page, with nothing in it from other servers."""

import base64
import hashlib
import re
from importlib import resources

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html

# Swagger UI, as a package that is made for this carries it.
FILES = resources.files("fastapi_offline") / "static"
DOCS_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
# The page, and what it loads.
DOCS_PATHS = ("/docs", "/openapi.json", *(f"/docs/{name}" for name in DOCS_FILES))
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def docs_router(title: str) -> APIRouter:
    """The routes below /docs.

    Addresses in the page are relative to its own, of which the service knows the end alone: the
    edge may have taken a prefix off.
    """
    router = APIRouter(prefix="/docs", include_in_schema=False)
    page = get_swagger_ui_html(
        openapi_url="./openapi.json",
        title=title,
        swagger_js_url="./docs/swagger-ui-bundle.js",
        swagger_css_url="./docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    content = bytes(page.body)
    policy = {"Content-Security-Policy": _policy(content)}

    @router.get("")
    async def docs() -> Response:
        return Response(content, media_type="text/html", headers=policy)

    @router.get("/swagger-ui-bundle.js")
    async def docs_script() -> Response:
        return _file("swagger-ui-bundle.js")

    @router.get("/swagger-ui.css")
    async def docs_style() -> Response:
        return _file("swagger-ui.css")

    return router


def _file(name: str) -> Response:
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(FILES.joinpath(name).read_bytes(), 200, headers, DOCS_FILES[name])


def _policy(page: bytes) -> str:
    """What the page may load: files of this server, and the script that stands in it, as it is."""
    hashes = [
        base64.b64encode(hashlib.sha256(text).digest()) for text in INLINE_SCRIPT.findall(page)
    ]
    scripts = " ".join(f"'sha256-{digest.decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
