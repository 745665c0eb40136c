// A request as a program in each of several languages, which needs nothing but what comes with the language.
//
// No token is ever in one: it is the variable TOKEN of the environment, so what is copied or shown to others
// holds no secret.

import { quoted } from './common.js';

const CURL_OPTIONS = { GET: [], HEAD: ['--head'], POST: [] };

function curl({ method, url, headers, body, needsToken }) {
  const parts = [...(CURL_OPTIONS[method] ?? [`-X ${method}`]), quoted(url)];
  if (needsToken) parts.push('-H "Authorization: Bearer $TOKEN"');
  parts.push(...headers.map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`));
  // A POST of nothing is one too.
  if (body !== undefined) parts.push(`--data-raw ${quoted(body)}`);
  else if (method === 'POST') parts.push('-X POST');
  const line = `curl ${parts.join(' ')}`;
  return line.length <= 80 ? line : `curl ${parts.join(' \\\n  ')}`;
}

/** A JSON string is a string of JavaScript, Python and Go alike; `short` are forms that need no escapes. */
function literal(text, short) {
  const isPlain = !/[\\\x00-\x09\x0b-\x1f\x7f\ufeff]/.test(text);
  const found = isPlain ? short.find(([quote, other]) => !text.includes(quote) && other(text)) : null;
  return found ? found[0] + text + found[0] : JSON.stringify(text).replaceAll('\ufeff', '\\ufeff');
}

const oneLine = (text) => !text.includes('\n');
const pythonString = (text) =>
  literal(text, [['"', oneLine], ["'", oneLine], ['"""', (text) => !/^"|"$/.test(text)]]);
const scriptString = (text) => literal(text, [["'", oneLine], ['`', (text) => !text.includes('${')]]);
const goString = (text) => literal(text, [['"', oneLine], ['`', () => true]]);

function python({ method, url, headers, body, needsToken }) {
  const fields = headers.map(([name, value]) => `${pythonString(name)}: ${pythonString(value)}`);
  if (needsToken) fields.unshift('"Authorization": "Bearer " + os.environ["TOKEN"]');
  return [
    ...(needsToken ? ['import os'] : []),
    'import urllib.request',
    '',
    'request = urllib.request.Request(',
    `    ${pythonString(url)},`,
    `    method="${method}",`,
    ...(fields.length > 0 ? ['    headers={', ...fields.map((field) => `        ${field},`), '    },'] : []),
    ...(body === undefined ? [] : [`    data=${pythonString(body)}.encode(),`]),
    ')',
    'with urllib.request.urlopen(request) as response:',
    '    print(response.status)',
    '    print(response.read().decode())',
  ].join('\n');
}

function javaScript({ method, url, headers, body, needsToken }) {
  const fields = headers.map(([name, value]) => `${scriptString(name)}: ${scriptString(value)}`);
  if (needsToken) fields.unshift('Authorization: `Bearer ${process.env.TOKEN}`');
  return [
    `const response = await fetch(${scriptString(url)}, {`,
    `  method: '${method}',`,
    ...(fields.length > 0 ? ['  headers: {', ...fields.map((field) => `    ${field},`), '  },'] : []),
    ...(body === undefined ? [] : [`  body: ${scriptString(body)},`]),
    '});',
    'console.log(response.status);',
    'console.log(await response.text());',
  ].join('\n');
}

function go({ method, url, headers, body, needsToken }) {
  const fields = headers.map(([name, value]) => `${goString(name)}, ${goString(value)}`);
  if (needsToken) fields.unshift('"Authorization", "Bearer "+os.Getenv("TOKEN")');
  const packages = ['fmt', 'io', 'log', 'net/http'];
  if (needsToken) packages.push('os');
  if (body !== undefined) packages.push('strings');
  const reader = body === undefined ? 'nil' : `strings.NewReader(${goString(body)})`;
  const check = ['\tif err != nil {', '\t\tlog.Fatal(err)', '\t}'];
  return [
    'package main',
    '',
    'import (',
    ...packages.map((name) => `\t"${name}"`),
    ')',
    '',
    'func main() {',
    `\trequest, err := http.NewRequest("${method}", ${goString(url)}, ${reader})`,
    ...check,
    ...fields.map((field) => `\trequest.Header.Set(${field})`),
    '\tresponse, err := http.DefaultClient.Do(request)',
    ...check,
    '\tdefer response.Body.Close()',
    '\tbody, err := io.ReadAll(response.Body)',
    ...check,
    '\tfmt.Println(response.StatusCode)',
    '\tfmt.Println(string(body))',
    '}',
  ].join('\n');
}

/** By the name of its language, what makes the program. */
export const LANGUAGES = { curl, Python: python, JavaScript: javaScript, Go: go };
