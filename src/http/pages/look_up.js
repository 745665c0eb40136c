// Look up one message, or several at once.

import { tokenField } from './access.js';
import { copying, during, here, make, quoted, say } from './common.js';
import { ask, complaint, digestOf, sizeOf, textOf } from './service.js';
import { forget } from './recent.js';

/** So many digests are looked up at once; more are for `digestd lookup`. */
const DIGESTS_MAX = 100;
/** How long the second press of a button that deletes is waited for. */
const DELETE_TIMEOUT_MS = 5000;

const at = (id) => document.getElementById(id);
const wanted = at('wanted');

let onChange;

/** The digests that are wanted, each with the number of its line: all words of a line, or the first one where the
 * rest is the name of a file, as `sha256sum` writes it. */
function wishes() {
  return wanted.value.split('\n').flatMap((line, index) => {
    const words = line.toLowerCase().split(/\s+/).filter(Boolean);
    const digests = words.every((word) => complaint(word) === null) ? words : words.slice(0, 1);
    return digests.map((digest) => ({ digest, line: index + 1 }));
  });
}

export function showLookUpLine() {
  const [first = '<digest>', ...more] = wishes().map(({ digest }) => digest);
  const line = more.length === 0
    ? `-H 'Accept: text/plain' ${quoted(`${here}/messages/${first}`)}`
    : `-H 'Content-Type: application/x-ndjson' --data-binary @digests.txt ${quoted(`${here}/messages/lookup`)}`;
  at('look-up-curl').textContent = `curl ${tokenField('read')}${line}`;
}

/** What is wrong with the digests, and where. */
function wrongIn(wishes) {
  if (wishes.length === 0) return 'Which one? A digest has 64 hexadecimal digits.';
  if (wishes.length > DIGESTS_MAX) {
    return `${DIGESTS_MAX} digests at a time; for more there is \`digestd lookup\`.`;
  }
  const wrong = wishes.find(({ digest }) => complaint(digest) !== null);
  if (wrong === undefined) return null;
  const problem = complaint(wrong.digest);
  return wishes.length === 1 ? problem : `Line ${wrong.line}: ${problem}`;
}

/** A message that was found, and what can be done with it. */
function found(digest, text) {
  const status = make('span', { className: 'aside', role: 'status' });
  const button = (label, properties) => make('button', { type: 'button', ...properties }, label);
  const copy = (label, text) => {
    const copies = button(label, { ariaLabel: `Copy ${label.toLowerCase()}` });
    copying(copies, () => status, () => text);
    return copies;
  };
  const link = `${here}/#${digest}`;
  const curl = `curl ${tokenField('read')}-H 'Accept: text/plain' ${quoted(`${here}/messages/${digest}`)}`;
  const download = button('Download');
  download.addEventListener('click', () => {
    const url = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
    make('a', { href: url, download: `${digest.slice(0, 16)}.txt` }).click();
    URL.revokeObjectURL(url);
  });
  const part = make('div', { className: 'message' });
  part.append(
    make('pre', {
      className: 'found', tabIndex: 0, role: 'region', ariaLabel: 'The message', hidden: text === '',
    }, text),
    make('div', { className: 'actions' },
      make('span', { className: 'aside' }, 'Copy'),
      copy('Message', text), copy('Digest', digest), copy('Link', link), copy('Curl line', curl),
      download, deleting(digest, part, status), status));
  return part;
}

/** A button that deletes a message when it is pressed twice; there for those who may. */
function deleting(digest, part, status) {
  const button = make('button', { type: 'button', className: 'delete' }, 'Delete');
  let timer;
  const rest = () => {
    clearTimeout(timer);
    timer = undefined;
    button.textContent = 'Delete';
  };
  button.addEventListener('blur', rest);
  button.addEventListener('click', () => {
    if (timer === undefined) {
      button.textContent = 'Delete for everybody?';
      timer = setTimeout(rest, DELETE_TIMEOUT_MS);
      return;
    }
    rest();
    during(button, status, async () => {
      await ask(`/messages/${digest}`, { method: 'DELETE' });
      part.replaceChildren(make('p', { className: 'answer good' }, 'Deleted.'));
      wanted.focus();
      forget(digest);
      onChange();
    });
  });
  return button;
}

/** Checks a message that came. */
async function checked(digest, bytes) {
  const own = await digestOf(bytes);
  if (own !== null && own !== digest) {
    throw new Error('The service answered with a text that has another digest.');
  }
  return own === null ? '' : ' Its digest is right.';
}

async function lookUpOne(digest) {
  const response = await ask(`/messages/${digest}`, { headers: { Accept: 'text/plain' } });
  // Not text(): it would drop a byte order mark.
  const bytes = new Uint8Array(await response.arrayBuffer());
  const isRight = await checked(digest, bytes);
  return ['good', `Found, ${sizeOf(bytes.length)}.${isRight}`, found(digest, textOf(bytes))];
}

async function lookUpAll(digests) {
  const response = await ask('/messages/lookup', {
    method: 'POST', headers: { 'Content-Type': 'application/x-ndjson' }, body: digests.join('\n'),
  });
  const answers = (await response.text()).trimEnd().split('\n').map((line) => JSON.parse(line));
  const parts = await Promise.all(digests.map(async (digest, index) => {
    const { message, error = 'The answer ended before it.' } = answers[index] ?? {};
    const name = make('code', {}, digest);
    if (message === undefined) {
      return make('li', {}, name, ' ', make('span', { className: 'answer error' }, error));
    }
    const bytes = new TextEncoder().encode(message);
    await checked(digest, bytes);
    return make('li', {}, make('details', {},
      make('summary', {}, name, ` ${sizeOf(bytes.length)}`), found(digest, message)));
  }));
  const count = answers.filter(({ message }) => message !== undefined).length;
  const kind = count === digests.length ? 'good' : 'error';
  return [kind, `Found ${count} of ${digests.length}.`, make('ul', { className: 'several' }, ...parts)];
}

let turn = 0;

/** Looks up what is wanted now: what an earlier turn finds is not shown any more. */
async function lookUp() {
  const own = ++turn;
  at('found').replaceChildren();
  let shown;
  try {
    const names = wishes();
    const problem = wrongIn(names);
    wanted.ariaInvalid = String(problem !== null);
    if (problem !== null) throw new Error(problem);
    const digests = names.map(({ digest }) => digest);
    shown = await (digests.length === 1 ? lookUpOne(digests[0]) : lookUpAll(digests));
  } catch (error) {
    shown = ['error', error.message];
  }
  if (own !== turn) return;
  const [kind, text, ...parts] = shown;
  say(at('found-status'), kind, text);
  at('found').replaceChildren(...parts);
}

/** A link to a digest looks it up. */
function followLink() {
  const digest = location.hash.slice(1);
  if (complaint(digest) !== null) return;
  wanted.value = digest;
  showLookUpLine();
  at('look-up').scrollIntoView({ block: 'nearest' });
  lookUp();
}

export function startLookUp(changed) {
  onChange = changed;
  wanted.addEventListener('input', showLookUpLine);
  wanted.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      at('look-up').requestSubmit();
    }
  });
  at('look-up').addEventListener('submit', (event) => {
    event.preventDefault();
    lookUp();
  });
  addEventListener('hashchange', followLink);
  // A link to what the address names already changes nothing in it.
  addEventListener('click', ({ target }) => {
    if (target.closest('a')?.hash === location.hash) followLink();
  });
  copying(at('copy-look-up'), () => at('look-up-copied'), () => at('look-up-curl').textContent, at('look-up-curl'));
  showLookUpLine();
  followLink();
}
