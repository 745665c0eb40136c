// All requests: a list to choose from, and what openapi.json says of each, with a form to send it.

import { here, make } from './common.js';
import { parameterId, requestPanel, setScopes, showAll } from './request.js';
import { bodyTypes, entries, load, named, operations, prose, resolved, sampleOf, words, written } from './spec.js';
import { setToken, token } from './token.js';

const at = (id) => document.getElementById(id);
const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

const fold = (title, ...content) =>
  make('details', { className: 'fold' }, make('summary', {}, title), ...content);

/** A link to the part of the page around it, which copies its address as well. */
function anchor(id, title) {
  const link = make('a', { href: `#${id}`, className: 'anchor', ariaLabel: `Link to: ${title}` }, '#');
  const status = make('span', { className: 'aside', role: 'status' });
  link.addEventListener('click', async () => {
    // Without HTTPS a page has no clipboard, and the address is in the bar.
    await navigator.clipboard?.writeText(link.href).then(() => { status.textContent = 'Link copied.'; }, () => {});
    setTimeout(() => { status.textContent = ''; }, 4000);
  });
  return [link, status];
}

const methodMark = ({ method }) => make('b', { className: `method ${method.toLowerCase()}` }, method);

/** Method, path, and what a token has to allow where tokens are asked for. */
function address(operation) {
  const line = make('p', { className: 'address' }, methodMark(operation), ' ', make('code', {}, operation.path));
  const scope = make('a', { href: '#tokens', className: 'aside' }, 'scope ', make('code', {}, operation.scope));
  if (operation.scope) line.append(' ', scope);
  return line;
}

function parameters(operation) {
  const list = (parameters) => make('dl', { className: 'names' }, ...parameters.flatMap((parameter) =>
    named(parameter.name, parameter.schema, { ...parameter, id: parameterId(operation, parameter) })));
  const isField = ({ in: place }) => place === 'header';
  const fields = operation.own.filter(isField);
  const others = operation.own.filter((parameter) => !isField(parameter));
  return [
    ...(others.length > 0 ? [make('h4', {}, 'Parameters'), list(others)] : []),
    ...(fields.length > 0 ? [fold(plural(fields.length, 'header field'), list(fields))] : []),
  ];
}

function body({ requestBody }) {
  if (!requestBody) return [];
  const { description, content } = resolved(requestBody);
  return [make('h4', {}, 'Body'), ...prose(description), bodyTypes(content)];
}

/** Named examples of what is answered, each as it is sent. */
const examples = (content) => entries(content).flatMap(([type, { examples }]) =>
  entries(examples).map(([name, { summary = name, value }]) => make('figure', {},
    make('figcaption', {}, ...words(summary), ' ', make('span', { className: 'aside' }, type)),
    make('pre', {}, written(value)))));

/** A success: its meaning, its body, its fields. */
function answer([status, { description, headers, content }], isOpen) {
  const [first, ...rest] = prose(description);
  const fields = entries(headers).flatMap(([name, { schema, ...header }]) => named(name, schema, header));
  const shown = make('details', { className: 'fold status', open: isOpen },
    make('summary', {}, make('b', { className: 'good' }, status), ' ', ...first.childNodes), ...rest);
  if (content) shown.append(bodyTypes(content));
  const found = examples(content);
  if (found.length > 0) shown.append(fold(plural(found.length, 'example'), ...found));
  shown.append(fold(plural(Object.keys(headers).length, 'field'), make('dl', { className: 'names' }, ...fields)));
  return shown;
}

/** Rows of causes: status, `type`, meaning. */
const causeRows = (names, causes, cell) => names.map((name) => {
  const { status, title, description } = causes[name];
  return make('tr', {}, make('td', {}, String(status)), make('td', {}, cell(name)),
    make('td', {}, title, '. ', ...words(description)));
});

function causeTable(...bodies) {
  const titles = ['Status', 'Type', 'Meaning'].map((title) => make('th', { scope: 'col' }, title));
  return make('table', {}, make('thead', {}, make('tr', {}, ...titles)), ...bodies);
}

const causesOf = ({ errors }) => errors.flatMap(([, response]) => response['x-problems'] ?? []);

/** The errors of an operation, but for those of every one. */
function errors(operation, causes, common) {
  const own = causesOf(operation).filter((name) => !common.includes(name));
  const link = (name) => make('a', { href: `#error-${name}` }, make('code', {}, name));
  const found = operation.errors.flatMap(([, { content = {} }]) =>
    examples({ 'application/json': content['application/json'] ?? {} }));
  const rest = make('p', { className: 'aside' }, 'Also those of ',
    make('a', { href: '#errors' }, 'every request'), '.');
  if (own.length === 0) return [make('h4', {}, 'Errors'), rest];
  const statuses = new Set(own.map((name) => causes[name].status));
  return [make('h4', {}, 'Errors'), fold([...statuses].join(' · '),
    causeTable(make('tbody', {}, ...causeRows(own, causes, link))), rest,
    ...(found.length > 0 ? [fold(plural(found.length, 'example'), ...found)] : []))];
}

/** Another address of an operation. */
const alias = (operation) => make('div', { className: 'operation alias', id: operation.id },
  address(operation), ...prose(operation.description), ...parameters(operation), requestPanel(operation));

function article(operation, aliases, causes, common) {
  const { id, summary } = operation;
  const [lead, ...rest] = prose(operation.description);
  const title = make('h3', { id: `${id}-title` }, summary, ' ', ...anchor(id, summary));
  const shown = make('article', { className: 'operation', id },
    make('div', { className: 'lead' }, title, address(operation), ...(lead ? [lead] : [])),
    requestPanel(operation),
    make('div', { className: 'details' },
      ...(rest.length > 0 ? [fold('More about it', ...rest)] : []),
      ...parameters(operation), ...body(operation),
      make('h4', {}, 'Answers'), ...operation.answers.map((one) => answer(one, one[0] === sampleOf(operation)?.status)),
      ...errors(operation, causes, common),
      ...(aliases.length > 0
        ? [make('h4', {}, 'Other addresses'),
          fold(aliases.map(({ path }) => path).join(' · '), ...aliases.map(alias))]
        : [])));
  shown.setAttribute('aria-labelledby', title.id);
  return shown;
}

/** A part of the page and of the list. */
function part(id, title, ...content) {
  const heading = make('h2', { id: `${id}-title` }, title);
  const section = make('section', { id }, heading, ...content);
  at('main').append(section);
  return section;
}

function group(title, links) {
  const heading = make('p', { className: 'group' }, title);
  heading.id = `list-${title.toLowerCase().replaceAll(' ', '-')}`;
  const list = make('ul', {}, ...links.map((link) => make('li', {}, link)));
  list.setAttribute('aria-labelledby', heading.id);
  at('groups').append(make('div', {}, heading, list));
}

function listLink(operation, aliases) {
  const link = make('a', { href: `#${operation.id}` }, methodMark(operation), ' ', operation.summary);
  const all = [operation, ...aliases].flatMap(({ id, path }) => [id, path]);
  link.dataset.words = [operation.method, operation.summary, ...all].join(' ').toLowerCase();
  return link;
}

/** Shows what has all the words that are typed. */
function filter() {
  const typed = at('filter').value.toLowerCase().split(/\s+/);
  let count = 0;
  for (const list of at('groups').children) {
    const links = [...list.querySelectorAll('a')];
    const found = links.filter((link) => typed.every((word) => link.dataset.words.includes(word)));
    links.forEach((link) => { link.parentElement.hidden = !found.includes(link); });
    list.hidden = found.length === 0;
    count += found.length;
  }
  at('filtered').textContent = at('filter').value === '' ? '' : `${plural(count, 'request')} found`;
}

function setMenu(isOpen) {
  at('menu').ariaExpanded = String(isOpen);
}

function listenToList() {
  at('filter').addEventListener('input', filter);
  at('filter').addEventListener('keydown', (event) => {
    if (event.key === 'Enter') at('groups').querySelector('div:not([hidden]) li:not([hidden]) a')?.click();
  });
  at('menu').addEventListener('click', () => setMenu(at('menu').ariaExpanded !== 'true'));
  at('groups').addEventListener('click', (event) => {
    if (event.target.closest('a')) setMenu(false);
  });
  at('list').addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || at('menu').ariaExpanded !== 'true') return;
    setMenu(false);
    at('menu').focus();
  });
  const links = new Map([...at('groups').querySelectorAll('a')].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((seen) => {
    const entered = seen.findLast(({ isIntersecting }) => isIntersecting);
    if (!entered) return;
    for (const [id, link] of links) link.ariaCurrent = id === entered.target.id ? 'true' : null;
  }, { rootMargin: '-20% 0px -79% 0px' });
  for (const id of links.keys()) observer.observe(at(id));
}

async function listenToToken() {
  at('token').value = token();
  const show = () => {
    at('forget').hidden = token() === '';
    showAll();
  };
  at('token').addEventListener('input', () => { setToken(at('token').value); show(); });
  at('forget').addEventListener('click', () => {
    setToken('');
    at('token').value = '';
    at('token').focus();
    show();
  });
  show();
  const response = await fetch(`${here}/`, { headers: { Accept: 'application/json' } });
  const { needs_token: scopes = [] } = await response.json();
  setScopes(scopes);
  if (scopes.length > 0) at('asked').textContent = `Asked for to ${scopes.join(' and ')}. `;
}

/** Opens what the address names, and what it is in. */
function openNamed() {
  setMenu(false);
  const found = at(location.hash.slice(1));
  if (!found) return;
  for (let outer = found.closest('details'); outer; outer = outer.parentElement.closest('details')) {
    outer.open = true;
  }
  found.scrollIntoView();
}

async function main() {
  const { info, tags, components, 'x-problems': causes } = await load();
  at('version').textContent = `Version ${info.version}`;
  const all = operations();
  const listed = all.filter(({ aliasOf }) => !aliasOf);
  const aliasesOf = ({ id }) => all.filter(({ aliasOf }) => aliasOf === id);
  const common = Object.keys(causes).filter((name) => listed.every((one) => causesOf(one).includes(name)));

  for (const { name, description } of tags) {
    const found = listed.filter((operation) => operation.tags.includes(name));
    part(name.toLowerCase(), name, make('p', { className: 'aside' }, description),
      ...found.map((operation) => article(operation, aliasesOf(operation), causes, common)));
    group(name, found.map((operation) => listLink(operation, aliasesOf(operation))));
  }

  const more = [
    part('about', 'About all requests', ...prose(info.description)),
    part('tokens', 'Tokens', ...prose(components.securitySchemes.bearer.description)),
    part('errors', 'Errors', ...errorsOfAll(causes, common)),
  ];
  group('More', more.map(({ id, firstChild: { textContent } }) => {
    const link = make('a', { href: `#${id}` }, textContent);
    link.dataset.words = textContent.toLowerCase();
    return link;
  }));
  listenToList();
  addEventListener('hashchange', openNamed);
  openNamed();
  await listenToToken();
}

/** All causes of errors: those of every request first. */
function errorsOfAll(causes, common) {
  const cell = (name) => make('code', { id: `error-${name}` }, name);
  const rows = (title, names) => make('tbody', {},
    make('tr', {}, make('th', { scope: 'rowgroup', colSpan: 3 }, title)),
    ...causeRows(names.toSorted((one, other) => causes[one].status - causes[other].status), causes, cell));
  const others = Object.keys(causes).filter((name) => !common.includes(name));
  return [
    make('p', {}, ...words('With `Accept: application/problem+json` an error has a `type`, which ends with one of '
      + 'these names after `openapi.yaml#/x-problems/`.')),
    causeTable(rows('Of every request', common), rows('Of some requests', others)),
  ];
}

main().catch(() => {
  const sorry = 'The description cannot be fetched: the service cannot be reached.';
  at('main').append(make('p', { className: 'error', role: 'alert' }, sorry));
});
