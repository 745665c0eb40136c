"""Asks as httpx does: a line for each question, with its path, type, site and number of bytes."""

import sys

import httpx

url, trust = sys.argv[1:]
with httpx.Client(http2=True, verify=trust, timeout=20) as client:
    for line in sys.stdin:
        path, kind, site, count = line.split()
        fields = {"content-type": kind, "sec-fetch-site": site}
        answer = client.post(url + path, content=b"a" * int(count), headers=fields)
        assert answer.http_version == "HTTP/2"
        print(answer.status_code, " ".join(answer.text.split()))
