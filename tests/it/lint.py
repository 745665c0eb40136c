"""Asks the server at argv[1], and prints what httplint has to say of each answer.

Each line of the input is a request as JSON: method, path, fields, body. Each line of the output is
the answer to it: status and notes, a note being its level and its summary.
"""

import http.client
import json
import sys
import time

from httplint import HttpRequestLinter, HttpResponseLinter

host = sys.argv[1]
for line in sys.stdin:
    method, path, fields, body = json.loads(line)
    started = time.time()
    connection = http.client.HTTPConnection(host)
    connection.request(method, path, body, fields)
    response = connection.getresponse()

    request = HttpRequestLinter(start_time=started)
    request.process_request_topline(method.encode(), f"http://{host}{path}".encode(), b"1.1")
    request.process_headers([(n.encode(), v.encode()) for n, v in fields.items()])
    request.finish_content(True)

    linter = HttpResponseLinter(start_time=started)
    linter.request = request
    linter.is_head_response = method == "HEAD"
    linter.process_response_topline(b"1.1", str(response.status).encode(), response.reason.encode())
    linter.process_headers([(n.encode(), v.encode()) for n, v in response.getheaders()])
    linter.feed_content(response.read())
    linter.finish_content(True)
    notes = [(note.level.name, note.summary) for note in linter.notes]
    print(json.dumps([response.status, notes]))
