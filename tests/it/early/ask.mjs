// Asks as Node does: a line for each question, with its path, type, site and number of bytes.
import { readFileSync } from "node:fs";
import { connect } from "node:http2";

const [url, trust] = process.argv.slice(2);
const session = connect(url, { ca: readFileSync(trust) });

function ask(path, kind, site, count) {
  return new Promise((resolve, reject) => {
    const fields = { ":method": "POST", ":path": path, "content-type": kind, "sec-fetch-site": site };
    const stream = session.request(fields);
    let status;
    let text = "";
    stream.setEncoding("utf8");
    stream.on("response", (answer) => (status = answer[":status"]));
    stream.on("data", (piece) => (text += piece));
    stream.on("end", () => resolve(`${status} ${text.split(/\s+/).join(" ")}`));
    stream.on("error", reject);
    stream.end(Buffer.alloc(Number(count), "a"));
  });
}

for (const line of readFileSync(0, "utf8").trim().split("\n")) {
  console.log(await ask(...line.split(" ")));
}
session.close();
