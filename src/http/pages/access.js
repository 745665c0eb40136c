// What needs a token, and what the one that is kept allows: the state of the service says it.

let needsToken = [];
let allows = [];

/** Remembers both; says whether the first is another than before. */
export function setAccess(needed, allowed) {
  const is_other = needed.join() !== needsToken.join();
  [needsToken, allows] = [needed, allowed];
  document.body.classList.toggle('may-delete', allows.includes('delete'));
  return is_other;
}

/** The field of a curl line where a token is asked for, to be filled in by the shell. */
export function tokenField(scope) {
  return needsToken.includes(scope) ? '-H "Authorization: Bearer $TOKEN" ' : '';
}
