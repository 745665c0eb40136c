"""Lists the messages of a data directory; written from the header of src/store/embedded/record.rs alone."""
import hashlib, json, pathlib, struct, sys

MAGIC, MESSAGE, DELETION, FILLER, HEADER = b"\xff\x64\x67\x31", 1, 2, 3, 56

TABLE = []
for value in range(256):
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    TABLE.append(value)

def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF

def records(segment):
    """Kind, digest and body of each record; what is damaged is stepped over."""
    at = segment.find(MAGIC)
    while at != -1 and at + HEADER <= len(segment):
        kind, digest, length, checksum = struct.unpack_from("<4xB11x32sII", segment, at)
        end = at + HEADER + length
        if at % 8 or crc32c(segment[at : at + 52]) != checksum or end > len(segment):
            at = segment.find(MAGIC, at + 1)
            continue
        yield kind, digest, segment[at + HEADER : end]
        at = segment.find(MAGIC, end)

messages = {}
for path in sorted(pathlib.Path(sys.argv[1], "log").glob("*.log")):
    for kind, digest, body in records(path.read_bytes()):
        if kind == MESSAGE and hashlib.sha256(body).digest() == digest:
            messages[digest] = body.decode("utf-8")
        elif kind == DELETION:
            messages.pop(digest, None)
for digest, text in sorted(messages.items()):
    print(digest.hex(), json.dumps(text))
