import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** The common server in Java: com.sun.net.httpserver. Server PORT; see matrix_test.go for what it answers. */
public class Server {
    static final AtomicInteger SERVED = new AtomicInteger();

    public static void main(String[] args) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(args[0])), 128);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", Server::handle);
        server.start();
    }

    static void handle(HttpExchange x) throws IOException {
        try (x) {
            String path = x.getRequestURI().getPath();
            String query = x.getRequestURI().getQuery();
            int n = query == null ? 0 : Integer.parseInt(query.substring(2));
            if (path.equals("/count")) {
                answer(x, Integer.toString(SERVED.get()).getBytes());
                return;
            }
            SERVED.incrementAndGet();
            switch (path) {
                case "/hello":
                    answer(x, "hello".getBytes());
                    break;
                case "/echo":
                    answer(x, x.getRequestBody().readAllBytes());
                    break;
                case "/large":
                    answer(x, fill(n));
                    break;
                case "/chunked":
                    x.sendResponseHeaders(200, 0);
                    for (int i = 0; i < n; i++) {
                        x.getResponseBody().write(fill(1000));
                        x.getResponseBody().flush();
                    }
                    break;
                default:
                    x.sendResponseHeaders(404, -1);
            }
        }
    }

    static byte[] fill(int n) {
        byte[] b = new byte[n];
        Arrays.fill(b, (byte) 'x');
        return b;
    }

    static void answer(HttpExchange x, byte[] body) throws IOException {
        if (x.getRequestMethod().equals("HEAD")) {
            x.getResponseHeaders().set("Content-Length", Integer.toString(body.length));
            x.sendResponseHeaders(200, -1);
            return;
        }
        x.sendResponseHeaders(200, body.length == 0 ? -1 : body.length);
        x.getResponseBody().write(body);
    }
}
