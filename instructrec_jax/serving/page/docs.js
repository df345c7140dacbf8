// Shows openapi.json with Swagger UI, where that is installed.

if (window.SwaggerUIBundle) {
  SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    validatorUrl: null,
    displayRequestDuration: true,
  });
}
