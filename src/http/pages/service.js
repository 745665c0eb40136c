// What the page of messages asks the service, and what it knows about digests.

import { here, own } from './common.js';
import { authorization } from './token.js';

export const DIGEST_DIGITS = 64;

/** A request that the service refused: its status, and a sentence for people. */
export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Asks the service. Every answer is an error but those with a good status and those that are `expected`. */
export async function ask(path, { headers, expected = [], ...options } = {}) {
  let response;
  try {
    const all = { ...own, ...authorization(), ...headers };
    response = await fetch(here + path, { cache: 'no-store', headers: all, ...options });
  } catch {
    throw new Refusal(0, 'The service cannot be reached.');
  }
  if (response.ok || expected.includes(response.status)) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refusal(response.status, body.error ?? `The service answered ${response.status}.`);
}

/** The hexadecimal SHA-256 of some bytes; null where the browser has none to offer. */
export async function digestOf(bytes) {
  // Only pages from HTTPS or from this very machine have it.
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** What is wrong with a digest, if anything. */
export function complaint(digest) {
  if (!/^[0-9a-f]*$/i.test(digest)) return 'A digest has only the digits 0 to 9 and a to f.';
  if (digest.length !== DIGEST_DIGITS) {
    return `A digest has 64 digits, and this has ${digest.length}.`;
  }
  return null;
}

/** The text of a message; a byte order mark is a part of it. Throws what is not UTF-8. */
export function textOf(bytes) {
  return new TextDecoder('utf-8', { ignoreBOM: true, fatal: true }).decode(bytes);
}

/** A size for people. */
export function sizeOf(count) {
  return `${count.toLocaleString('en')} ${count === 1 ? 'byte' : 'bytes'}`;
}
