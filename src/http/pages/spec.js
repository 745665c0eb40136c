// The description of the interface as the page of all requests reads it, and how its parts are shown.
//
// It knows as much of OpenAPI as openapi.yaml uses: references within the document, parameters in path, query
// and fields, bodies and answers with named examples, schemas of few keywords.

import { here, make } from './common.js';

const METHODS = ['post', 'get', 'head', 'put', 'delete'];

let spec;

export async function load() {
  const response = await fetch(`${here}/openapi.json`);
  spec = await response.json();
  return spec;
}

/** What a reference refers to; anything else is itself. */
export function resolved(value) {
  if (value?.$ref === undefined) return value;
  const names = value.$ref.replace(/^#\//, '').split('/');
  const unescaped = (name) => name.replaceAll('~1', '/').replaceAll('~0', '~');
  return resolved(names.reduce((inner, name) => inner[unescaped(name)], spec));
}

export const entries = (object = {}) =>
  Object.entries(object).map(([name, value]) => [name, resolved(value)]);

/** All operations, in the order in which they are described. */
export function operations() {
  return entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((name) => {
      const operation = item[name];
      const own = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolved);
      const security = operation.security ?? [{}];
      return {
        ...operation,
        id: operation.operationId,
        aliasOf: operation['x-alias-of'],
        method: name.toUpperCase(),
        path,
        own,
        scope: security.flatMap(({ bearer = [] }) => bearer)[0],
        isOpen: security.some((alternative) => Object.keys(alternative).length === 0),
        answers: entries(operation.responses).filter(([status]) => status < '4'),
        errors: entries(operation.responses).filter(([status]) => status >= '4'),
      };
    }));
}

/** A text with `code` in it. */
export const words = (text = '') =>
  text.trim().split('`').map((piece, index) => (index % 2 ? make('code', {}, piece) : piece));

/** Paragraphs of such a text. */
export const prose = (text = '') =>
  text.trim().split(/\n\s*\n/).filter(Boolean).map((paragraph) => make('p', {}, ...words(paragraph)));

/** An example as the service sends it. */
export const written = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));

/** An example on one line, if that is short. */
export function writtenShort(value) {
  if (typeof value === 'string') return value;
  const line = written(value).replace(/\n\s*/g, ' ').replace(/([[{]) | ([\]}])/g, '$1$2');
  return line.length < 80 ? line : written(value);
}

/** The types of its body. */
export const bodyTypesOf = (operation) => Object.keys(resolved(operation.requestBody)?.content ?? {});

/** The types among which `Accept` chooses when an operation succeeds; without it, it is the first. */
export const answerTypesOf = ({ answers }) => answers
  .filter(([status, { headers }]) => status.startsWith('2') && headers?.Vary)
  .flatMap(([, { content = {} }]) => Object.keys(content));

/** The example of an answer to the example of a request: it has the same name. */
export function sampleOf(operation, bodyType = bodyTypesOf(operation)[0], accept = '') {
  const ofRequest = resolved(operation.requestBody)?.content[bodyType] ?? operation.own.find(({ examples }) => examples);
  const [name] = Object.keys(ofRequest?.examples ?? {});
  const types = answerTypesOf(operation);
  const wanted = accept || types[0];
  const examples = operation.answers.flatMap(([status, { content }]) =>
    entries(content).flatMap(([type, { examples }]) =>
      entries(examples).map(([name, { value }]) => ({ status, type, name, value }))));
  return examples.find((example) => (name === undefined || example.name === name)
    && (example.type === wanted || !types.includes(example.type)));
}

/** The type that a schema allows, in a few words. */
function typeOf(schema) {
  const { type, oneOf, items, enum: values, const: value } = resolved(schema);
  if (value !== undefined) return JSON.stringify(value);
  if (values) return values.map((value) => JSON.stringify(value)).join(' or ');
  if (oneOf) return oneOf.map(typeOf).join(' or ');
  if (type === 'array') return `array of ${typeOf(items)}s`;
  return type ?? 'text';
}

/** What a schema requires beside the type. */
function limitsOf(schema) {
  const { pattern, minimum, maximum, minItems, maxItems, items } = resolved(schema);
  const limits = [];
  if (pattern) limits.push(['matches ', make('code', {}, pattern)]);
  if (minimum !== undefined) limits.push([`at least ${minimum.toLocaleString('en')}`]);
  // Larger ones are no limits to anybody.
  if (maximum !== undefined && maximum < 1e15) limits.push([`at most ${maximum.toLocaleString('en')}`]);
  if (minItems) limits.push([`at least ${minItems} of them`]);
  if (maxItems) limits.push([`at most ${maxItems.toLocaleString('en')} of them`]);
  const own = limits.flatMap((limit) => [', ', ...limit]);
  return items ? [...own, ...limitsOf(items)] : own;
}

/** A name and what it stands for, as in a list of parameters or members. */
export function named(name, schema, { required = false, description, id } = {}) {
  const title = make('dt', {}, make('code', {}, name), ' ',
    make('span', { className: 'aside' }, typeOf(schema), ...limitsOf(schema)));
  if (required) title.append(' ', make('span', { className: 'required' }, 'required'));
  const text = description ?? resolved(schema).description;
  const content = make('dd', {}, ...prose(text), ...membersOf(schema));
  if (id) content.id = id;
  return [title, content];
}

/** The members of what has any. */
function membersOf(schema) {
  const { properties, required = [], items, oneOf = [] } = resolved(schema);
  if (items) return membersOf(items);
  const inner = oneOf.flatMap(membersOf);
  if (!properties) return inner;
  const members = entries(properties).flatMap(([name, member]) =>
    named(name, member, { required: required.includes(name) }));
  return [make('dl', { className: 'names' }, ...members), ...inner];
}

/** A body: its types, each with its schema. */
export const bodyTypes = (content = {}) => make('dl', { className: 'names' },
  ...entries(content).flatMap(([type, { schema }]) => named(type, schema)));
