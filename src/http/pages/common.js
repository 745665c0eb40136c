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

/** A button that copies what `source` shows, and says so in the element after it. */
export function copies(button, source) {
  button.addEventListener('click', async () => {
    const status = button.nextElementSibling;
    try {
      await navigator.clipboard.writeText(source.textContent);
      status.textContent = 'Copied.';
    } catch {
      // Without HTTPS a page has no clipboard.
      source.closest('details')?.setAttribute('open', '');
      getSelection().selectAllChildren(source);
      status.textContent = 'Selected: copy it with the keyboard.';
    }
    setTimeout(() => { status.textContent = ''; }, 4000);
  });
}
