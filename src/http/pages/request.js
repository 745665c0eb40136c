// A form that sends the request of an operation, and the same request as a program.

import { copies, here, make, own } from './common.js';
import { LANGUAGES } from './examples.js';
import {
  answerTypesOf, bodyTypesOf, entries, resolved, sampleOf, words, written, writtenShort,
} from './spec.js';
import { authorization, token } from './token.js';

/** A longer answer is shown up to here. */
const SHOWN_CHARACTERS_MAX = 100_000;
const LANGUAGE_KEY = 'digestd-language';

/** What shows programs, to be shown once more when the language or the token is another. */
const shown = [];
export const showAll = () => shown.forEach((show) => show());

/** The scopes for which the service asks for a token. */
let scopes = [];
export function setScopes(needed) {
  scopes = needed;
  showAll();
}

let language = 'curl';
try {
  language = localStorage.getItem(LANGUAGE_KEY) ?? language;
} catch { /* Storage is switched off. */ }
if (!Object.hasOwn(LANGUAGES, language)) language = 'curl';

function setLanguage(name) {
  language = name;
  try {
    localStorage.setItem(LANGUAGE_KEY, name);
  } catch { /* As above. */ }
  showAll();
}

/** A part of a path: only what would end it is encoded, since proxies decode or refuse what need not be. */
const segment = (value) => value.replace(/[^\w.~:+/=-]/gu, encodeURIComponent);

let controls = 0;

/** A control with its label; what the name means is said in the list of parameters. */
function field(name, control, helpId) {
  control.id = `control-${++controls}`;
  if (helpId) control.setAttribute('aria-describedby', helpId);
  return [make('label', { htmlFor: control.id }, name), control];
}

const select = (values) => make('select', {},
  ...values.map(([value, text = value]) => make('option', { value }, text)));

/** The controls of an operation's request, and what makes the request of them. */
function requestForm(operation) {
  const form = make('form', { className: 'try' });
  const optional = make('details', {}, make('summary', {}, 'Header fields'));
  const inputs = operation.own.map((parameter) => {
    const { name, required = false, schema } = parameter;
    const [example] = entries(parameter.examples).map(([, { value }]) => value);
    const input = make('input', {
      className: 'mono', required, spellcheck: false, autocomplete: 'off', autocapitalize: 'off',
      [required ? 'value' : 'placeholder']: example ?? schema.enum?.[0] ?? '',
    });
    (parameter.in === 'header' ? optional : form).append(
      ...field(name, input, parameterId(operation, parameter)));
    return [parameter, input];
  });

  const types = answerTypesOf(operation);
  const accept = types.length > 1 ? select([['', 'any'], ...types.map((type) => [type])]) : null;
  if (accept) form.append(...field('Accept', accept));

  const body = resolved(operation.requestBody);
  const type = body && select(bodyTypesOf(operation).map((type) => [type]));
  const text = body && make('textarea', { rows: 3, spellcheck: false, autocomplete: 'off', className: 'mono' });
  if (body) {
    const fill = () => {
      const [[, example]] = entries(body.content[type.value].examples);
      text.value = writtenShort(example.value);
    };
    fill();
    type.addEventListener('change', fill);
    form.append(...field('Content-Type', type), ...field('Body', text));
  }
  if (optional.children.length > 1) form.append(optional);

  const request = () => {
    let target = operation.path;
    const query = [];
    const headers = [];
    for (const [{ name, in: place, allowEmptyValue }, { value }] of inputs) {
      if (place === 'path') target = target.replace(`{${name}}`, () => segment(value));
      else if (value === '') continue;
      else if (place !== 'query') headers.push([name, value]);
      else query.push(allowEmptyValue ? name : `${name}=${encodeURIComponent(value)}`);
    }
    if (query.length > 0) target += `?${query.join('&')}`;
    if (body) headers.unshift(['Content-Type', type.value]);
    if (accept?.value) headers.unshift(['Accept', accept.value]);
    return { method: operation.method, url: here + target, headers, body: text?.value.toWellFormed() };
  };
  return { form, request, sample: () => sampleOf(operation, type?.value, accept?.value) };
}

/** Where the list of parameters says what one means. */
export const parameterId = ({ id }, { name }) => `${id}-${name}`;

/** Tabs of languages, and the program in the one that is chosen. */
function programs(operation, form, request) {
  const panel = make('pre', { id: `${operation.id}-program`, role: 'tabpanel', tabIndex: 0 });
  const tabs = Object.keys(LANGUAGES).map((name) => {
    const tab = make('button', { type: 'button', role: 'tab', id: `${operation.id}-${name}` }, name);
    tab.setAttribute('aria-controls', panel.id);
    tab.addEventListener('click', () => setLanguage(name));
    return tab;
  });
  const list = make('div', { role: 'tablist', ariaLabel: `Language of the example: ${operation.summary}` }, ...tabs);
  list.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const tab = tabs.at((tabs.findIndex((tab) => tab.tabIndex === 0) + step) % tabs.length);
    tab.click();
    tab.focus();
  });
  const copy = make('button', { type: 'button', ariaLabel: `Copy the example: ${operation.summary}` }, 'Copy');
  copies(copy, panel);
  const show = () => {
    for (const tab of tabs) {
      const isChosen = tab.textContent === language;
      tab.ariaSelected = String(isChosen);
      tab.tabIndex = isChosen ? 0 : -1;
      if (isChosen) panel.setAttribute('aria-labelledby', tab.id);
    }
    const needsToken = token() !== '' || scopes.includes(operation.scope) || !operation.isOpen;
    panel.textContent = LANGUAGES[language]({ ...request(), needsToken });
  };
  shown.push(show);
  form.addEventListener('input', show);
  show();
  return make('div', { className: 'program' },
    make('div', { className: 'bar' }, list, copy, make('span', { className: 'aside', role: 'status' })), panel);
}

/** What is answered, as the description shows it, where it shows that. */
function answer({ summary }, form, sample) {
  const status = make('b', { className: 'good' });
  const type = make('span', { className: 'aside' });
  const body = make('pre', { tabIndex: 0, role: 'group', ariaLabel: `Example of the answer: ${summary}` });
  const block = make('div', { className: 'program sample' },
    make('div', { className: 'bar' }, status, ' ', type), body);
  const show = () => {
    const found = sample();
    block.hidden = !found;
    status.textContent = found?.status ?? '';
    type.textContent = found?.type ?? '';
    body.textContent = written(found?.value ?? '');
  };
  form.addEventListener('input', show);
  show();
  return block;
}

/** An operation's request as a program and as a form, and its answer. */
export function requestPanel(operation) {
  const { form, request, sample } = requestForm(operation);
  const result = make('div', { className: 'result' }, make('p', { className: 'answer', role: 'status' }));
  const button = make('button', { className: 'main', ariaLabel: `Send: ${operation.summary}` }, 'Send');
  form.append(make('div', { className: 'actions' }, button), result);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(request(), result, operation);
  });
  return make('div', { className: 'panel' }, programs(operation, form, request), answer(operation, form, sample),
    make('details', { className: 'fold' }, make('summary', {}, 'Try it'), form));
}

/** Says what came of a request: a status, its fields, its body. */
async function send({ method, url, headers, body }, result, { summary }) {
  const [status] = result.children;
  const say = (kind, text, ...rest) => {
    status.className = `answer ${kind}`;
    status.replaceChildren(...words(text));
    result.replaceChildren(status, ...rest);
  };
  say('', 'Sending …');
  try {
    const started = performance.now();
    const fields = { ...own, ...authorization(), ...Object.fromEntries(headers) };
    const response = await fetch(url, { method, headers: fields, body, cache: 'no-store' });
    const text = await response.text();
    const taken = Math.round(performance.now() - started);
    const block = (name, text) => [make('p', { className: 'aside' }, name),
      make('pre', { tabIndex: 0, role: 'group', ariaLabel: `${name}: ${summary}` }, text)];
    const cut = text.length > SHOWN_CHARACTERS_MAX ? ', cut' : '';
    const answered = Array.from(response.headers, ([name, value]) => `${name}: ${value}\n`).join('');
    say(response.status < 400 ? 'good' : 'error',
      `${response.status} ${response.statusText} in ${taken} ms`,
      ...(response.status === 401 ? [askForToken()] : []),
      ...(text === '' ? [] : block(`Body of the answer${cut}`, text.slice(0, SHOWN_CHARACTERS_MAX))),
      make('details', {}, make('summary', {}, 'Fields of the answer'), ...block('Fields', answered).slice(1)));
  } catch {
    // The browser does not say why.
    say('error', 'The service cannot be reached, or the browser does not send this.');
  }
}

function askForToken() {
  const button = make('button', { type: 'button' }, token() === '' ? 'Enter a token' : 'Enter another token');
  button.addEventListener('click', () => document.getElementById('token').focus());
  return button;
}
