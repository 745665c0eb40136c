// Store a message, look one up, see how the service is.
//
// Whatever a message holds is shown as text and never becomes markup. What the service says is
// checked: the digest is computed here as well.

import { copies, here, make, own, quoted } from './common.js';

const DIGEST_DIGITS = 64;
const STATE_INTERVAL_MS = 5000;
/** What is asked for with a token; the state of the service says it. */
let needsToken = [];
/** Longer lines than this do no terminal good. */
const CURL_CHARACTERS_MAX = 2000;

const at = (id) => document.getElementById(id);
const message = at('message');
const wanted = at('wanted');

/** The hexadecimal SHA-256 of a text; null where the browser has none to offer. */
async function digestOf(text) {
  // Only pages from HTTPS or from this very machine have it.
  if (!globalThis.crypto?.subtle) return null;
  const bytes = new TextEncoder().encode(text);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Asks the service; what goes wrong is an error with a sentence for people. */
async function ask(path, { headers, ...options }) {
  let response;
  try {
    const all = { ...own, ...headers };
    response = await fetch(here + path, { cache: 'no-store', headers: all, ...options });
  } catch {
    throw new Error('The service cannot be reached.');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error ?? `The service answered ${response.status}.`);
}

/** The field of a curl line where a token is asked for, to be filled in by the shell. */
function token(scope) {
  return needsToken.includes(scope) ? '-H "Authorization: Bearer $TOKEN" ' : '';
}

function say(element, kind, ...content) {
  element.className = `answer ${kind}`;
  element.replaceChildren(...content);
}

/** Runs one request at a time, its button held down meanwhile. */
async function during(button, status, work) {
  if (button.ariaDisabled === 'true') return;
  button.ariaDisabled = 'true';
  try {
    await work();
  } catch (error) {
    say(status, 'error', error.message);
  } finally {
    button.ariaDisabled = 'false';
  }
}

// The digest as it is typed.

const bars = Array.from({ length: DIGEST_DIGITS / 2 }, () => make('i'));
at('bars').append(...bars);
let typed = 0;

async function showDigest() {
  const turn = ++typed;
  const text = message.value;
  const bytes = new TextEncoder().encode(text).length;
  at('size').textContent = `${bytes.toLocaleString('en')} ${bytes === 1 ? 'byte' : 'bytes'}`;
  const body = text.length > CURL_CHARACTERS_MAX
    ? '--data-binary @message.txt'
    : `--data-raw ${quoted(text)}`;
  at('store-curl').textContent =
    `curl ${token('write')}-H 'Content-Type: text/plain' ${body} ${quoted(`${here}/messages`)}`;
  const digest = await digestOf(text);
  // A longer text may take longer than the next one.
  if (turn !== typed) return;
  const output = at('digest');
  if (digest === null) {
    output.textContent =
      'A browser computes it only over HTTPS or on this machine; storing the message tells it.';
    at('bars').hidden = true;
    return;
  }
  output.replaceChildren(...digest.match(/.{8}/g).map((group) => make('span', {}, group)));
  bars.forEach((bar, index) => {
    const byte = parseInt(digest.slice(2 * index, 2 * index + 2), 16);
    bar.style.setProperty('--byte', byte / 255);
  });
}

message.addEventListener('input', showDigest);
message.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at('store').requestSubmit();
  }
});

// Store.

const SURVIVES = {
  disk: 'Stored; it survives a power cut.',
  os: 'Stored; it survives a power cut in a moment.',
};

at('store').addEventListener('submit', (event) => {
  event.preventDefault();
  during(at('store-button'), at('stored'), async () => {
    const text = message.value;
    if (!text.isWellFormed()) {
      throw new Error('There is half a character in the message, which has no digest.');
    }
    const response = await ask('/messages', {
      method: 'POST',
      headers: { 'Content-Type': 'text/plain', Accept: 'application/json' },
      body: text,
    });
    const { digest } = await response.json();
    const own = await digestOf(text);
    if (own !== null && own !== digest) {
      throw new Error('The service answered with another digest than that of the message.');
    }
    const survives = SURVIVES[response.headers.get('Durability')] ?? 'Stored.';
    const link = make('a', { href: `#${digest}`, className: 'mono' }, digest);
    say(at('stored'), 'good', `${survives} Look it up: `, link);
    showState();
  });
});

// Look up.

function showLookUpLine() {
  const digest = wanted.value.trim() || '<digest>';
  at('look-up-curl').textContent =
    `curl ${token('read')}-H 'Accept: text/plain' ${quoted(`${here}/messages/${digest}`)}`;
}

/** What is wrong with a digest, if anything. */
function complaint(digest) {
  if (digest === '') return 'Which one? A digest has 64 hexadecimal digits.';
  if (!/^[0-9a-f]*$/i.test(digest)) return 'A digest has only the digits 0 to 9 and a to f.';
  if (digest.length !== DIGEST_DIGITS) {
    return `A digest has 64 digits, and this has ${digest.length}.`;
  }
  return null;
}

function lookUp() {
  return during(at('look-up-button'), at('found-status'), async () => {
    const found = at('found');
    found.hidden = true;
    const digest = wanted.value.trim();
    const problem = complaint(digest);
    wanted.ariaInvalid = String(problem !== null);
    if (problem !== null) throw new Error(problem);
    const response = await ask(`/messages/${digest}`, { headers: { Accept: 'text/plain' } });
    // Not text(): it would drop a byte order mark.
    const bytes = await response.arrayBuffer();
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
    const own = await digestOf(text);
    if (own !== null && own !== digest.toLowerCase()) {
      throw new Error('The service answered with a text that has another digest.');
    }
    const count = bytes.byteLength;
    const size = `${count.toLocaleString('en')} ${count === 1 ? 'byte' : 'bytes'}`;
    say(at('found-status'), 'good', `Found, ${size}.${own === null ? '' : ' Its digest is right.'}`);
    found.textContent = text;
    found.hidden = text === '';
  });
}

wanted.addEventListener('input', showLookUpLine);
at('look-up').addEventListener('submit', (event) => {
  event.preventDefault();
  lookUp();
});

/** A link to a digest looks it up. */
function followLink() {
  const digest = location.hash.slice(1);
  if (complaint(digest) !== null) return;
  wanted.value = digest;
  showLookUpLine();
  lookUp();
}

addEventListener('hashchange', followLink);

// State and figures.

async function showState() {
  const state = at('state');
  let text, kind;
  try {
    const response = await ask('/', { headers: { Accept: 'application/json' } });
    const { reads, writes, reason, messages, disk_bytes: bytes, needs_token: scopes = [] } =
      await response.json();
    if (scopes.join() !== needsToken.join()) {
      needsToken = scopes;
      showDigest();
      showLookUpLine();
    }
    kind = writes ? 'good' : reads ? 'warning' : 'error';
    text = writes ? 'Ready' : reads ? `Read only: ${reason}` : `Not ready: ${reason}`;
    if (messages !== undefined) {
      const mebibytes = Math.round(bytes / (1 << 20));
      text += ` · ${messages.toLocaleString('en')} ${messages === 1 ? 'message' : 'messages'}`;
      text += ` · ${mebibytes.toLocaleString('en')} MiB on disk`;
    }
  } catch (error) {
    [text, kind] = [error.message, 'error'];
  }
  state.textContent = text;
  state.className = `state ${kind}`;
}

setInterval(() => { if (!document.hidden) showState(); }, STATE_INTERVAL_MS);
document.addEventListener('visibilitychange', () => { if (!document.hidden) showState(); });

copies(at('copy-store'), at('store-curl'));
copies(at('copy-look-up'), at('look-up-curl'));
showDigest();
showLookUpLine();
showState();
followLink();
