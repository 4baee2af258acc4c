import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * One service of the polyglot example. It needs $PORT, and $OUTRIGGER_&lt;SERVICE&gt;_URL for each service that it calls.
 *
 * <pre>
 * GET /                     who answers
 * GET /call/SERVICE/REST    what SERVICE answers to /REST, and who asked
 * GET /healthz              200
 * </pre>
 */
public class Hello {
    static final String ME = "\"service\": \"java\", \"language\": \"Java " + System.getProperty("java.version") + "\"";
    static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(5)).build();

    public static void main(String[] args) throws IOException {
        int port = Integer.parseInt(System.getenv("PORT"));
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port), 0);
        ExecutorService threads = Executors.newFixedThreadPool(8);
        server.setExecutor(threads);
        server.createContext("/", Hello::handle);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
    }

    static void handle(HttpExchange x) throws IOException {
        String path = x.getRequestURI().getPath();
        try {
            if (path.equals("/healthz")) {
                answer(x, 200, "{\"ok\": true}");
            } else if (path.equals("/")) {
                answer(x, 200, "{" + ME + "}");
            } else if (path.startsWith("/call/")) {
                call(x, path.substring("/call/".length()));
            } else {
                answer(x, 404, "{\"error\": \"no such path\"}");
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        } finally {
            x.close();
        }
    }

    static void call(HttpExchange x, String rest) throws IOException, InterruptedException {
        int slash = rest.indexOf('/');
        String service = slash < 0 ? rest : rest.substring(0, slash);
        String base = System.getenv("OUTRIGGER_" + service.toUpperCase().replace('-', '_') + "_URL");
        if (base == null) {
            answer(x, 404, "{\"error\": \"no address for that service\"}");
            return;
        }
        URI uri = URI.create(base + (slash < 0 ? "/" : rest.substring(slash)));
        HttpRequest req = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(10)).build();
        HttpResponse<String> r;
        try {
            r = CLIENT.send(req, HttpResponse.BodyHandlers.ofString());
        } catch (IOException e) {
            answer(x, 502, "{\"error\": \"the call failed\"}");
            return;
        }
        if (r.statusCode() != 200) {
            answer(x, 502, "{\"error\": \"status " + r.statusCode() + "\"}");
            return;
        }
        answer(x, 200, "{" + ME + ", \"called\": " + r.body() + "}");
    }

    static void answer(HttpExchange x, int status, String body) throws IOException {
        byte[] data = body.getBytes(StandardCharsets.UTF_8);
        x.getResponseHeaders().set("Content-Type", "application/json");
        x.sendResponseHeaders(status, data.length);
        x.getResponseBody().write(data);
    }
}
