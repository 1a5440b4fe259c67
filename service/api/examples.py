"""What the documentation shows: how to ask, and what comes back."""

# 8 x 8 grey pixels.
EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR42mNogAIGyhgAgIQgARDoahcAAAAA"
    "SUVORK5CYII="
)
EXAMPLE_JSON = {"image": EXAMPLE_PNG, "model": "demo", "outputs": ["iuv", "mask"]}

EXAMPLE_FORM = {"image": "(the bytes of the file)", "model": "demo", "outputs": "iuv,mask"}
EXAMPLE_MAP = {"media_type": "image/png", "width": 100, "height": 199, "data": "iVBORw0KGgo..."}
EXAMPLE_ANSWER = {
    "model": "R_50_FPN_s1x",
    "image": {"width": 480, "height": 360},
    "instances": [
        {
            "score": 0.98,
            "class_id": 0,
            "class_name": "person",
            "box": [10.25, 20.5, 110.75, 220.0],
            "region": [10, 20, 100, 199],
            "maps": {"iuv": EXAMPLE_MAP},
        }
    ],
    "maps": {},
    "timing_ms": {
        "read": 0.2,
        "decode": 3.1,
        "queue": 0.4,
        "preprocess": 4.0,
        "network": 30.0,
        "postprocess": 1.2,
        "encode": 2.2,
        "total": 41.1,
    },
}

DESCRIPTION = """\
People and animals in a photo, described pixel by pixel: boxes, and for every pixel of a body its \
place on the surface. Errors are `application/problem+json`; their `code` is stable.
"""
USAGE = """\
Send the image as the raw body, as the part `image` of a form, or in base64 in JSON. Parameters \
go into the query, the form or the JSON object. A default in one place gives way to a value in the \
other; two different values are an error. An empty field of a form counts as left out.

    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' \\
        'http://localhost:8000/v1/densepose?outputs=iuv,mask'
    curl -F image=@photo.jpg -F outputs=none http://localhost:8000/v1/densepose
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' -H 'Accept: image/png' \\
        -o iuv.png http://localhost:8000/v1/densepose
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' -o densepose.png \\
        'http://localhost:8000/v1/densepose?render=viton'
    curl -F image=@photo.jpg -F atlas=@atlas.png -F render=texture -o textured.png \\
        http://localhost:8000/v1/densepose

The answer follows `Accept`: JSON, a ZIP file of it with the maps beside it, NumPy's `.npz`, or \
the one picture of the image. A `render` answers with its own file unless another form is asked for.
"""
HEADERS = {
    "X-Request-ID": "The client's id of the request where it sent a usable one, else a new one.",
    "X-Model-Id": "The model that answered.",
    "Server-Timing": "Milliseconds of each stage.",
}
