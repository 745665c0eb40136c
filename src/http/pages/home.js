// Store a message, look some up, see how the service is: `store.js`, `look_up.js`, and here what both share.

import { ask } from './service.js';
import { showLookUpLine, startLookUp } from './look_up.js';
import { showStoreLine, startStore } from './store.js';
import { setAccess } from './access.js';
import { setToken, token } from './token.js';

const STATE_INTERVAL_MS = 5000;

const at = (id) => document.getElementById(id);

// The token.

let tokenState = '';

/** The field is there when the service asks for tokens, or has one. */
function showToken(needsToken, allows) {
  const has = token() !== '';
  at('token-form').hidden = needsToken.length === 0 && !has;
  at('forget-token').hidden = !has;
  const text = has
    ? allows.length === 0
      ? 'The service does not know this token.'
      : `It allows ${allows.join(', ')}.`
    : `Needed to ${needsToken.join(' and ')}. It is kept until the tab is closed.`;
  // Said once, not every time it is looked at.
  if (text !== tokenState) at('token-status').textContent = text;
  tokenState = text;
}

at('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const field = at('token');
  // It may come from the field of a request.
  const text = field.value.trim().replace(/^bearer\s+/i, '');
  // Anything else cannot be in one.
  if (!/^[\x21-\x7e]*$/.test(text)) {
    at('token-status').textContent = 'A token is one word of ASCII letters, digits and symbols.';
    return;
  }
  tokenState = '';
  setToken(text);
  field.value = '';
  showState();
});

at('forget-token').addEventListener('click', () => {
  setToken('');
  at('token').focus();
  showState();
});

// State and figures.

async function showState() {
  const state = at('state');
  let text, kind;
  try {
    const response = await ask('/', { headers: { Accept: 'application/json' } });
    const {
      reads, writes, reason, messages, disk_bytes: bytes,
      needs_token: needsToken = [], token_allows: allows = [],
    } = await response.json();
    showToken(needsToken, allows);
    if (setAccess(needsToken, allows)) {
      showStoreLine();
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

startStore(showState);
startLookUp(showState);
showState();
