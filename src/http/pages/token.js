// The token of the person before the page, kept for the tab and nowhere else: never in an address, never
// in a cookie.

const KEY = 'digestd-token';

/** Where nothing can be kept, a token lasts as long as the page. */
let kept = '';
try {
  kept = sessionStorage.getItem(KEY) ?? '';
} catch { /* Storage is switched off. */ }

/** The token, or nothing. */
export const token = () => kept;

/** Keeps a token; an empty one removes it. */
export function setToken(text) {
  kept = text.trim();
  try {
    if (kept === '') sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, kept);
  } catch { /* As above. */ }
}

/** The field of a request that has the token, if there is one. */
export const authorization = () => (kept === '' ? {} : { Authorization: `Bearer ${kept}` });
