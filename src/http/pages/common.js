// What the pages share.

/** Where the service is, without a slash at its end: pages are right below that, whatever it is. */
export const here = location.origin + new URL('.', location.href).pathname.replace(/\/$/, '');

/** What pages of other sites cannot send, wherever the names of hosts are not what the browser sees. */
export const own = { 'X-Digestd-Page': '1' };

/** An element with properties and children; a text is only ever a text. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** `text` as one word of a POSIX shell. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Shows how something ended: `kind` is `good`, `warning`, `error` or nothing. */
export function say(element, kind, ...content) {
  element.className = `answer ${kind}`;
  element.replaceChildren(...content);
}

/** Runs one request at a time, its button held down meanwhile; says in `status` what goes wrong. */
export async function during(button, status, work) {
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

const COPIED_MS = 4000;

/** Makes `button` copy what `text` returns, and say so in what `status` returns. Without HTTPS a page has no clipboard: then
 * `source`, which shows the text, is selected, or the text is shown to be copied by hand. */
export function copying(button, status, text, source = null) {
  button.addEventListener('click', async () => {
    const said = status();
    try {
      await navigator.clipboard.writeText(text());
      said.textContent = 'Copied.';
    } catch {
      if (source === null) {
        prompt('Copy it with the keyboard.', text());
        return;
      }
      source.closest('details')?.setAttribute('open', '');
      getSelection().selectAllChildren(source);
      said.textContent = 'Selected: copy it with the keyboard.';
    }
    setTimeout(() => { said.textContent = ''; }, COPIED_MS);
  });
}

/** The same for a text that `source` shows, said in the element after the button. */
export function copies(button, source) {
  copying(button, () => button.nextElementSibling, () => source.textContent, source);
}
