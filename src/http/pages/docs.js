// The description of the interface, drawn from openapi.json, with a form for each request.
//
// It knows as much of OpenAPI as openapi.yaml uses: references within the document, parameters in
// path and fields, bodies and answers with named examples.

import { copies, here, make, own, quoted } from './common.js';

const METHODS = ['post', 'put', 'get', 'head', 'delete'];
/** A longer answer is shown up to here. */
const SHOWN_CHARACTERS_MAX = 100_000;

let spec;

/** What a reference refers to; anything else is itself. */
function resolved(value) {
  if (value?.$ref === undefined) return value;
  const names = value.$ref.replace(/^#\//, '').split('/');
  const unescaped = (name) => name.replaceAll('~1', '/').replaceAll('~0', '~');
  return resolved(names.reduce((inner, name) => inner[unescaped(name)], spec));
}

const entries = (object = {}) =>
  Object.entries(object).map(([name, value]) => [name, resolved(value)]);

/** Paragraphs, with `code` in them. */
function prose(text = '') {
  const pieces = (paragraph) =>
    paragraph.split('`').map((piece, index) => (index % 2 ? make('code', {}, piece) : piece));
  return text.trim().split(/\n\s*\n/).filter(Boolean)
    .map((paragraph) => make('p', {}, ...pieces(paragraph)));
}

/** A part of a path: only what would end it is encoded, since proxies decode or refuse what need not be. */
const segment = (value) => value.replace(/[^\w.~:+/=-]/gu, encodeURIComponent);

/** An example as it is sent. */
const written = (value) =>
  typeof value === 'string' ? value : `${JSON.stringify(value, null, 2)}\n`;

function field(labelText, control, description) {
  control.id = `f${++field.count}`;
  const label = make('label', { htmlFor: control.id }, labelText);
  if (!description) return [label, control];
  const help = make('div', { id: `${control.id}h`, className: 'aside' }, ...prose(description));
  control.setAttribute('aria-describedby', help.id);
  return [label, control, help];
}
field.count = 0;

function select(values) {
  return make('select', {}, ...values.map((value) => make('option', {}, value)));
}

/** The types among which `Accept` chooses when an operation succeeds. */
function answerTypes(operation) {
  const chosen = entries(operation.responses)
    .filter(([status, { headers }]) => status.startsWith('2') && headers?.Vary);
  return chosen.flatMap(([, { content = {} }]) => Object.keys(content));
}

/** A form that sends the request of an operation. */
function tryOut(method, path, operation, parameters) {
  const form = make('form', { className: 'try' });
  const optional = make('details', {}, make('summary', {}, 'More fields'));
  const controls = parameters.map((parameter) => {
    const [example] = entries(parameter.examples).map(([, { value }]) => value);
    const { required = false } = parameter;
    const suggestion = example ?? parameter.schema.enum?.[0] ?? '';
    const input = make('input', {
      className: 'mono', required, spellcheck: false, autocomplete: 'off', autocapitalize: 'off',
      [required ? 'value' : 'placeholder']: suggestion,
    });
    (parameter.required ? form : optional).append(
      ...field(parameter.name, input, parameter.description));
    return [parameter, input];
  });

  const types = answerTypes(operation);
  const accept = types.length > 1 ? select(types) : null;
  if (accept) form.append(...field('Accept', accept));

  const body = resolved(operation.requestBody);
  const type = body && select(Object.keys(body.content));
  const text = body && make('textarea', { rows: 4, spellcheck: false, autocomplete: 'off' });
  if (body) {
    const fill = () => {
      const [[, example]] = entries(body.content[type.value].examples);
      text.value = written(example.value);
    };
    fill();
    type.addEventListener('change', fill);
    form.append(...field('Content-Type', type), ...field('Body', text));
  }

  const request = () => {
    let target = path;
    const query = [];
    const headers = {};
    for (const [{ name, in: place, allowEmptyValue }, { value }] of controls) {
      if (place === 'path') target = target.replace(`{${name}}`, () => segment(value));
      else if (value === '') continue;
      else if (place !== 'query') headers[name] = value;
      else query.push(allowEmptyValue ? name : `${name}=${encodeURIComponent(value)}`);
    }
    if (query.length > 0) target += `?${query.join('&')}`;
    if (accept) headers.Accept = accept.value;
    if (body) headers['Content-Type'] = type.value;
    return { target, headers, body: text?.value };
  };

  const line = make('pre', { tabIndex: 0, role: 'region', ariaLabel: 'Curl line of this request' });
  const showLine = () => {
    const { target, headers, body } = request();
    const fields = Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
    const verb = { get: [], head: ['--head'], post: [] }[method] ?? [`-X ${method.toUpperCase()}`];
    const data = body === undefined ? [] : [`--data-raw ${quoted(body)}`];
    line.textContent = ['curl', ...verb, ...fields, ...data, quoted(here + target)].join(' ');
  };
  form.addEventListener('input', showLine);
  showLine();

  const copy = make('button', { type: 'button', ariaLabel: 'Copy the curl line' }, 'Copy curl line');
  const result = make('div', { className: 'result', role: 'status' });
  form.append(
    optional,
    make('div', { className: 'actions' },
      make('button', { className: 'main' }, 'Send'), copy, make('span', { role: 'status' })),
    line, result,
  );
  copies(copy, line);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(method, request(), result);
  });
  return form;
}

async function send(method, { target, headers, body }, result) {
  result.replaceChildren(make('p', { className: 'aside' }, 'Sending …'));
  try {
    const started = performance.now();
    const response = await fetch(here + target, {
      method: method.toUpperCase(), headers: { ...own, ...headers }, body, cache: 'no-store',
    });
    const text = await response.text();
    const taken = Math.round(performance.now() - started);
    const fields = Array.from(response.headers, ([name, value]) => `${name}: ${value}\n`);
    const kind = response.status < 400 ? 'good' : 'error';
    const shown = text.slice(0, SHOWN_CHARACTERS_MAX);
    const cut = shown.length < text.length ? ', cut' : '';
    result.replaceChildren(
      make('p', { className: `answer ${kind}` },
        `${response.status} ${response.statusText} in ${taken} ms`),
      make('pre', { tabIndex: 0, role: 'region', ariaLabel: 'Fields of the answer' }, fields.join('')),
    );
    if (shown !== '') {
      const label = `Body of the answer${cut}`;
      result.append(make('pre', { tabIndex: 0, role: 'region', ariaLabel: label }, shown));
    }
  } catch {
    // The browser does not say why.
    const sorry = 'The service cannot be reached, or the browser does not send this.';
    result.replaceChildren(make('p', { className: 'answer error' }, sorry));
  }
}

/** What an operation answers: a status, its meaning, its fields, examples. */
function answer(status, response) {
  const fields = entries(response.headers).map(([name, header]) =>
    make('li', {}, make('code', {}, name), ' ', ...prose(header.description).flatMap((p) => [...p.childNodes])));
  const examples = entries(response.content).flatMap(([type, { examples }]) =>
    entries(examples).map(([name, example]) => make('figure', {},
      make('figcaption', {}, ...prose(example.summary ?? name)[0].childNodes, ' ', make('span', { className: 'aside' }, type)),
      make('pre', {}, written(example.value)))));
  const kind = status < '4' ? 'good' : 'error';
  return make('details', { className: 'status' },
    make('summary', {}, make('b', { className: kind }, status), ' ',
      ...prose(response.description)[0].childNodes),
    ...prose(response.description).slice(1),
    make('ul', { className: 'fields' }, ...fields),
    ...examples);
}

/** The field that shows a token, where an operation may take one. */
function credential({ security = [] }) {
  const scopes = security.flatMap(({ bearer = [] }) => bearer);
  const description = 'Where the operator asks for tokens: `Bearer`, a space, and one that allows '
    + `\`${scopes}\`.`;
  return scopes.map(() => ({ name: 'Authorization', in: 'header', description, schema: {} }));
}

function draw(path, item, method) {
  const operation = item[method];
  const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolved)
    .concat(credential(operation));
  return make('details', { className: 'operation', id: operation.operationId },
    make('summary', {},
      make('b', { className: `method ${method}` }, method.toUpperCase()), ' ',
      make('code', {}, path), ' ',
      make('span', { className: 'aside' }, operation.summary)),
    ...prose(operation.description),
    make('h3', {}, 'Try it'),
    tryOut(method, path, operation, parameters),
    make('h3', {}, 'Answers'),
    ...entries(operation.responses).map(([status, response]) => answer(status, response)));
}

/** Opens what the address names. */
function openNamed() {
  const named = document.getElementById(location.hash.slice(1));
  if (named?.matches('details')) {
    named.open = true;
    named.scrollIntoView();
  }
}

async function main() {
  const response = await fetch(`${here}/openapi.json`);
  spec = await response.json();
  const { info, tags, paths } = spec;
  const about = document.getElementById('about');
  about.before(make('p', {}, info.summary, ` Version ${info.version}.`));
  about.before(...prose(info.description));
  const operations = entries(paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, item, method })));
  for (const { name, description } of tags) {
    const drawn = operations.filter(({ item, method }) => item[method].tags.includes(name))
      .map(({ path, item, method }) => draw(path, item, method));
    document.getElementById('main').append(make('section', {},
      make('h2', {}, name), make('p', { className: 'aside' }, description), ...drawn));
  }
  const causes = Object.entries(spec['x-problems']).map(([name, { status, title, description }]) =>
    make('li', {}, make('code', {}, name), ` ${status} ${title}. `,
      ...prose(description).flatMap((paragraph) => [...paragraph.childNodes])));
  document.getElementById('main').append(make('section', {},
    make('h2', {}, 'Causes of errors'),
    make('p', { className: 'aside' }, 'As the type of a problem document ends.'),
    make('ul', { className: 'fields' }, ...causes)));
  addEventListener('hashchange', openNamed);
  openNamed();
}

main().catch(() => {
  const sorry = 'The description cannot be fetched: the service cannot be reached.';
  document.getElementById('main').append(make('p', { className: 'error', role: 'alert' }, sorry));
});
