// Store a text that is typed, or a file as it is, and remember what was stored in this tab.

import { tokenField } from './access.js';
import { copying, during, here, make, quoted, say } from './common.js';
import { DIGEST_DIGITS, ask, digestOf, sizeOf, textOf } from './service.js';
import { remember } from './recent.js';

/** Longer lines than this do no terminal good. */
const CURL_CHARACTERS_MAX = 2000;
/** A larger file is for curl: a page holds all of it in memory, some times. */
const FILE_BYTES_MAX = 64 << 20;
/** So much of a file is shown. */
const PREVIEW_CHARACTERS_MAX = 2000;

const SURVIVES = {
  disk: 'Stored; it survives a power cut.',
  os: 'Stored; it survives a power cut in a moment.',
};

const HALF_CHARACTER = 'There is half a character in the message, which has no digest.';

const at = (id) => document.getElementById(id);
const message = at('message');

/** The file in the place of a text: its name, bytes and text. */
let file = null;
let typed = 0;

const bytesOf = () => file?.bytes ?? new TextEncoder().encode(message.value);

export function showStoreLine() {
  const text = message.value;
  let body = `--data-raw ${quoted(text)}`;
  if (file !== null) body = `--data-binary ${quoted(`@${file.name}`)}`;
  else if (text.length > CURL_CHARACTERS_MAX) body = '--data-binary @message.txt';
  at('store-curl').textContent =
    `curl ${tokenField('write')}-H 'Content-Type: text/plain' ${body} ${quoted(`${here}/messages`)}`;
}

/** The digest as it is typed. */
async function showDigest() {
  const turn = ++typed;
  const bytes = bytesOf();
  at('size').textContent = sizeOf(bytes.length);
  showStoreLine();
  const isText = file !== null || message.value.isWellFormed();
  const digest = isText ? await digestOf(bytes) : null;
  // A longer text may take longer than the next one.
  if (turn !== typed) return;
  const output = at('digest');
  at('bars').hidden = digest === null;
  at('copy-digest').hidden = digest === null;
  if (digest === null) {
    output.textContent = isText
      ? 'A browser computes it only over HTTPS or on this machine; storing the message tells it.'
      : HALF_CHARACTER;
    return;
  }
  output.replaceChildren(...digest.match(/.{8}/g).map((group) => make('span', {}, group)));
  [...at('bars').children].forEach((bar, index) => {
    const byte = parseInt(digest.slice(2 * index, 2 * index + 2), 16);
    bar.style.setProperty('--byte', byte / 255);
  });
}

// A file.

async function take(files) {
  if (files.length === 0) return;
  if (files.length > 1) throw new Error('One file at a time: each is a message of its own.');
  const [{ name, size }] = files;
  if (size > FILE_BYTES_MAX) {
    throw new Error(`${name} is too large for this page; curl takes it, as the line below has it.`);
  }
  const bytes = new Uint8Array(await files[0].arrayBuffer());
  let text;
  try {
    text = textOf(bytes);
  } catch {
    throw new Error(`${name} is not UTF-8: a message is a text.`);
  }
  file = { name, bytes, text };
  message.value = text.slice(0, PREVIEW_CHARACTERS_MAX);
  message.readOnly = true;
  const cut = text.length > PREVIEW_CHARACTERS_MAX ? ', of which the beginning is shown' : '';
  at('file-name').textContent = `The file ${name}${cut}, byte for byte.`;
  at('file-bar').hidden = false;
  say(at('stored'), '');
  await showDigest();
}

function dropFile() {
  file = null;
  message.value = '';
  message.readOnly = false;
  at('file-bar').hidden = true;
  showDigest();
}

function startFiles() {
  const chosen = at('file');
  const from = (files) => take([...files]).catch((error) => say(at('stored'), 'error', error.message));
  at('choose-file').addEventListener('click', () => chosen.click());
  chosen.addEventListener('change', async () => {
    await from(chosen.files);
    // The same file may be chosen again.
    chosen.value = '';
  });
  at('drop-file').addEventListener('click', () => {
    dropFile();
    message.focus();
  });
  // Beside the field a file would replace the page.
  const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes('Files');
  const section = at('store-section');
  addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    section.classList.add('takes');
  });
  addEventListener('dragleave', (event) => {
    if (event.relatedTarget === null) section.classList.remove('takes');
  });
  addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    section.classList.remove('takes');
    from(event.dataTransfer.files);
  });
}

// Store.

/** Stores bytes; whether they were there before, and how durable they are. */
async function store(bytes) {
  const headers = { 'Content-Type': 'text/plain', Accept: 'application/json' };
  const own = await digestOf(bytes);
  if (own === null) {
    const response = await ask('/messages', { method: 'POST', headers, body: bytes });
    const { digest } = await response.json();
    return { digest, survives: response.headers.get('Durability') };
  }
  // Only this tells whether it is stored already, and with another digest it is refused.
  const response = await ask(`/messages/${own}`, {
    method: 'PUT', headers: { ...headers, 'If-None-Match': '*' }, body: bytes, expected: [412],
  });
  const isKnown = response.status === 412;
  return { digest: own, isKnown, survives: response.headers.get('Durability') };
}

export function startStore(onChange) {
  at('bars').append(...Array.from({ length: DIGEST_DIGITS / 2 }, () => make('i')));
  message.addEventListener('input', showDigest);
  message.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      at('store').requestSubmit();
    }
  });
  at('store').addEventListener('submit', (event) => {
    event.preventDefault();
    during(at('store-button'), at('stored'), async () => {
      if (file === null && !message.value.isWellFormed()) {
        throw new Error(HALF_CHARACTER);
      }
      const bytes = bytesOf();
      const text = file?.text ?? message.value;
      const { digest, isKnown, survives } = await store(bytes);
      const said = isKnown ? 'It was stored already.' : SURVIVES[survives] ?? 'Stored.';
      const link = make('a', { href: `#${digest}`, className: 'mono' }, digest);
      say(at('stored'), 'good', `${said} Look it up: `, link);
      remember(digest, text, bytes.length);
      onChange();
    });
  });
  startFiles();
  copying(at('copy-digest'), () => at('store-copied'), () => at('digest').textContent);
  copying(at('copy-store'), () => at('store-copied'), () => at('store-curl').textContent, at('store-curl'));
  showDigest();
}
