"""An object store for tests: gcp-storage-emulator, with the conditions on generations that TensorStore relies on.

    python tests/object_store.py PORT        serves gs://bucket from memory until it is killed

The emulator numbers an object's generations, but neither names them when an object is read nor heeds a condition on
them. A database of arrays is written by reading its root and replacing it if nobody did meanwhile, so both are added.
"""

import sys
import threading
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "bucket"
_ONE_AT_A_TIME = threading.Lock()  # between reading a generation and acting on it


def generation(request: Any, storage: Any) -> str:
    """The present generation of the object that a request is about; 0 where there is none."""
    name = request.params.get("object_id") or request.query.get("name", [""])[0]
    if request.query.get("uploadType") == ["multipart"]:
        name = request.data["meta"]["name"]
    try:
        return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
    except NotFound:
        return "0"


def conditional(handler: Any, failed: HTTPStatus) -> Any:
    """`handler`, but only where the request's condition on the object's generation holds."""

    def handle(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> Any:
        with _ONE_AT_A_TIME:
            check_and_handle(request, response, storage, *args, **kwargs)

    def check_and_handle(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> Any:
        now = generation(request, storage)
        if now not in request.query.get("ifGenerationMatch", [now]):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif now in request.query.get("ifGenerationNotMatch", []):
            response.status = failed
        else:
            handler(request, response, storage, *args, **kwargs)

    return handle


def naming_generation(handler: Any) -> Any:
    """`handler`, whose answer tells the object's generation."""

    def handle(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> Any:
        response["x-goog-generation"] = generation(request, storage)
        handler(request, response, storage, *args, **kwargs)

    return handle


def serve(port: int) -> None:
    """Serves until killed."""
    objects.download = conditional(naming_generation(objects.download), HTTPStatus.NOT_MODIFIED)
    objects.insert = conditional(objects.insert, HTTPStatus.PRECONDITION_FAILED)
    objects.delete = conditional(objects.delete, HTTPStatus.PRECONDITION_FAILED)
    from gcp_storage_emulator.server import RequestHandler, create_server  # only now: importing it takes the handlers

    post = RequestHandler.do_POST
    # Moving is not emulated. What it would answer makes gcsfs try again for half a minute before it copies.
    RequestHandler.do_POST = lambda self: self.send_error(400) if "/moveTo/" in self.path else post(self)
    create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
