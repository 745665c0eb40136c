"""How schemathesis writes bodies of a type it does not know: texts as they are, all else in a line."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode()
