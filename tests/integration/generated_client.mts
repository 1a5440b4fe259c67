// Asks a server through a client made by openapi-typescript; prints the number of instances of each
// answer, and the status of each GET. Arguments: the server's address, and a picture.
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const [baseUrl, picture] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl });
const bytes = await readFile(picture);
const defaults = {
  min_score: 0.5,
  max_instances: 20,
  box_expand: 0,
  layout: "instance",
  paint: "later-on-top",
  people: "all",
  image_id: 0,
} as const;
const wish = { ...defaults, max_instances: 1 };

const asBytes = () => new Blob([bytes], { type: "image/jpeg" });
const asForm = (body: unknown) => {
  const form = new FormData();
  for (const [name, value] of Object.entries(body as Record<string, unknown>)) {
    form.append(name, name === "image" ? asBytes() : String(value));
  }
  return form;
};
const ask = {
  raw: (query: typeof defaults | typeof wish) =>
    client.POST("/v1/densepose", {
      params: { query },
      headers: { "Content-Type": "image/jpeg" },
      body: "",
      bodySerializer: asBytes,
    }),
  form: (query: typeof defaults | typeof wish, fields: typeof defaults | typeof wish = defaults) =>
    client.POST("/v1/densepose", {
      params: { query },
      body: { image: "", ...fields },
      bodySerializer: asForm,
    }),
  json: (query: typeof defaults | typeof wish, fields: typeof defaults | typeof wish = defaults) =>
    client.POST("/v1/densepose", {
      params: { query },
      body: { image: bytes.toString("base64"), ...fields },
    }),
};

const answers = {
  raw: await ask.raw(defaults),
  form: await ask.form(defaults),
  json: await ask.json(defaults),
  "raw, wish in the query": await ask.raw(wish),
  "form, wish in the query": await ask.form(wish),
  "form, wish in the body": await ask.form(defaults, wish),
  "json, wish in the query": await ask.json(wish),
  "json, wish in the body": await ask.json(defaults, wish),
};
const gets = {
  "/v1/models": await client.GET("/v1/models"),
  "/v1/models/{name}": await client.GET("/v1/models/{name}", { params: { path: { name: "demo" } } }),
  "/v1/parts": await client.GET("/v1/parts"),
  "/v1/renders": await client.GET("/v1/renders"),
  "/livez": await client.GET("/livez"),
  "/readyz": await client.GET("/readyz"),
  "/metrics": await client.GET("/metrics", { parseAs: "text" }),
};

const numInstances = Object.entries(answers).map(([name, { data, error }]) => [
  name,
  typeof data === "object" && "instances" in data ? data.instances.length : error,
]);
const statuses = Object.entries(gets).map(([path, { response }]) => [path, response.status]);
console.log(
  JSON.stringify({
    instances: Object.fromEntries(numInstances),
    statuses: Object.fromEntries(statuses),
  }),
);
