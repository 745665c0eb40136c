// What was stored in this tab, the last first: kept by the browser until the tab is closed.

import { make } from './common.js';
import { sizeOf } from './service.js';

const KEY = 'digestd-recent';
const COUNT_MAX = 10;
/** So much of a message is kept, to know it again. */
const START_CHARACTERS_MAX = 60;

let recent = [];
try {
  recent = JSON.parse(sessionStorage.getItem(KEY)) ?? [];
} catch { /* Storage is switched off, or holds something else. */ }

function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(recent));
  } catch { /* As above. */ }
  show();
}

function show() {
  document.getElementById('recent-section').hidden = recent.length === 0;
  document.getElementById('recent').replaceChildren(...recent.map(({ digest, start, count }) =>
    make('li', {},
      make('a', { href: `#${digest}`, className: 'mono', title: digest }, `${digest.slice(0, 16)}…`),
      ' ', make('span', { className: 'start' }, start),
      ' ', make('span', { className: 'aside' }, sizeOf(count)))));
}

/** Puts a message first. */
export function remember(digest, text, count) {
  const start = text.slice(0, START_CHARACTERS_MAX).toWellFormed();
  recent = [{ digest, start, count }, ...recent.filter((one) => one.digest !== digest)];
  recent.length = Math.min(recent.length, COUNT_MAX);
  keep();
}

/** Forgets a message that was deleted. */
export function forget(digest) {
  recent = recent.filter((one) => one.digest !== digest);
  keep();
}

show();
